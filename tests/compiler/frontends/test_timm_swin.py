"""Imports of Swin and BEiT equal timm's own output, computed here and not by the importer's own check."""

from __future__ import annotations

import pytest
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.timm_source import FAMILIES
from coformer_compiler.model.spec import WindowSpec
from coformer_compiler.model.window import UNSEEN, window_tables
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.timm_models import timm_logits, timm_model

SWIN = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 7}
BEIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}


def difference(name: str, family: str, **options: object) -> float:
    """Between timm's logits, which depend on the pixels, and those of the import; as a part of the greatest."""
    model = timm_model(name, **options)
    size = model.patch_embed.img_size
    pixels = torch.randint(0, 256, (3, 3, *size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    want = timm_logits(model, pixels)
    imported = FAMILIES[family].convert(model, ModelSource(f"timm:{name}"))
    with torch.inference_mode():
        got = imported(pixels)
    assert (want[0] - want[1]).abs().max() > 0.01
    return float((got - want).abs().max()) / max(1, float(want.abs().max()))


VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "swin": ("swin_tiny_patch4_window7_224", "swin_transformer", SWIN),
    "one window a stage": ("swin_tiny_patch4_window7_224", "swin_transformer", SWIN | {"window_size": 16}),
    "always moved": (
        "swin_tiny_patch4_window7_224",
        "swin_transformer",
        SWIN | {"img_size": 32, "always_partition": True},
    ),
    "not square": ("swin_tiny_patch4_window7_224", "swin_transformer", SWIN | {"img_size": (64, 32)}),
    "unlike windows": ("swin_s3_tiny_224", "swin_transformer", SWIN | {"window_size": ((8, 4), (4, 2))}),
    "three stages": (
        "swin_base_patch4_window7_224",
        "swin_transformer",
        SWIN | {"depths": (2, 2, 2), "num_heads": (2, 4, 4), "window_size": (4, 4, 2)},
    ),
    "no bias of the readers": ("swin_tiny_patch4_window7_224", "swin_transformer", SWIN | {"qkv_bias": False}),
    "beit": ("beit_base_patch16_224", "beit", BEIT),
    "beit, shared bias": (
        "beit_base_patch16_224",
        "beit",
        BEIT | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "beit, both biases and positions": (
        "beitv2_base_patch16_224",
        "beit",
        BEIT | {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
    ),
    "beit, class token": ("beit_base_patch16_224", "beit", BEIT | {"global_pool": "token"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    name, family, options = VARIANTS[variant]
    assert difference(name, family, **options) <= 1e-4


NAMES = {
    "swin_tiny_patch4_window7_224": {},
    "swin_small_patch4_window7_224": {"depths": (2, 2, 2, 2)},
    "swin_base_patch4_window7_224": {"depths": (2, 2, 2, 2)},
    "swin_base_patch4_window12_384": {"depths": (1, 1, 2, 1)},
    "swin_large_patch4_window7_224": {"depths": (1, 1, 2, 1)},
    "swin_s3_tiny_224": {},
    "swin_s3_base_224": {"depths": (2, 2, 2, 2)},
    "beit_base_patch16_224": {"depth": 2},
    "beit_large_patch16_384": {"depth": 1},
    "beitv2_base_patch16_224": {"depth": 2},
    "vit_large_patch16_224": {"depth": 2},
    "vit_huge_patch14_224": {"depth": 1},
    "deit3_large_patch16_384": {"depth": 2},
    "vit_base_patch16_clip_224": {"depth": 2},
    "vit_large_patch14_clip_224": {"depth": 1},
    "vit_so400m_patch14_siglip_gap_224": {"depth": 1},
    "vit_base_patch16_siglip_gap_384": {"depth": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_named_models(name: str) -> None:
    """The real widths, windows and image sizes; where it takes long, fewer layers."""
    imported = import_model(ModelSource(f"timm:{name}", "random", options=(*NAMES[name].items(), ("num_classes", 20))))
    assert imported.spec.classes == 20


@pytest.mark.parametrize(
    ("options", "what", "mend"),
    [
        (
            {"window_size": 6},
            "layers.0.blocks.0 has windows of 6 x 6 in a grid of 16 x 16",
            "choose an image size and a window size with whole windows in every stage",
        ),
        (
            {"img_size": 60, "window_size": 15},
            "stage 1 merges a grid of 15 x 15",
            "choose an image size that halves evenly",
        ),
        ({"num_classes": 0}, "it has no classifier", "set model.options.num_classes"),
    ],
)
def test_foreign_shapes(options: dict[str, object], what: str, mend: str) -> None:
    with pytest.raises(CoformerError) as caught:
        import_model(
            ModelSource("timm:swin_tiny_patch4_window7_224", "random", options=tuple((SWIN | options).items()))
        )
    assert (caught.value.what, caught.value.mend) == (f"cannot be imported: {what}", mend)


def test_moved_windows_keep_the_edges_apart() -> None:
    """By hand: tokens see each other when their window is the same and the move took neither around an edge."""
    spec = WindowSpec((4, 6), (2, 3), (1, 1))
    tables = window_tables(spec, torch.device("cpu"))
    assert tables.mask is not None and tables.mask.shape == (4, 1, 6, 6)
    assert torch.equal(tables.order[tables.back], torch.arange(24))
    for window, tokens in enumerate(tables.order.view(4, 6).tolist()):
        for i, one in enumerate(tokens):
            for j, other in enumerate(tokens):
                around = [(token // 6 < 1, token % 6 < 1) for token in (one, other)]
                in_last = [window // 2 == 1, window % 2 == 1]
                apart = any(last and a != b for last, a, b in zip(in_last, *around, strict=True))
                assert float(tables.mask[window, 0, i, j]) == (UNSEEN if apart else 0)
