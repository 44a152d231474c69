"""Imports from timm equal timm's own output, computed here and not by the importer's own check."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coformer_compiler.frontends import ModelSource, import_model, timm_vit
from coformer_compiler.frontends.timm_vit import OPTIONS, transformer_from_vit
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.compiler.frontends.timm_models import SMALL, save_weights, timm_logits, timm_model

TOLERANCE = 1e-4


def random_inputs(model: nn.Module, batch: int = 2) -> torch.Tensor:
    shape = (batch, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def difference(name: str, batch: int = 2, **options: int | float | str | bool) -> float:
    """Between timm's logits, which depend on the pixels, and those of the import; as a part of the greatest."""
    model = timm_model(name, **options)
    pixels = random_inputs(model, batch)
    want = timm_logits(model, pixels)
    imported = transformer_from_vit(model, ModelSource(f"timm:{name}"))
    del model
    gc.collect()
    with torch.inference_mode():
        got = imported(pixels)
    assert want.abs().max() > 0.5
    assert (want[0] - want[1]).abs().max() > 0.05
    return float((got - want).abs().max()) / max(1, float(want.abs().max()))


NAMES = [
    "vit_tiny_patch16_224",
    pytest.param("deit_tiny_patch16_224", marks=pytest.mark.slow),
    "deit_tiny_distilled_patch16_224",
    pytest.param("vit_small_patch16_224", marks=pytest.mark.slow),
    pytest.param("deit_small_patch16_224", marks=pytest.mark.slow),
    pytest.param("deit3_small_patch16_224", marks=pytest.mark.slow),
    pytest.param("vit_wee_patch16_reg1_gap_256", marks=pytest.mark.slow),
    pytest.param("vit_little_patch16_reg4_gap_256", marks=pytest.mark.slow),
    pytest.param("vit_base_patch16_224", marks=pytest.mark.slow),
    pytest.param("deit_base_patch16_224", marks=pytest.mark.slow),
    pytest.param("deit_base_distilled_patch16_224", marks=pytest.mark.slow),
    pytest.param("vit_base_patch16_siglip_gap_224", marks=pytest.mark.slow),
    pytest.param("vit_base_patch32_clip_224", marks=pytest.mark.slow),
    pytest.param("vit_base_patch32_clip_quickgelu_224", marks=pytest.mark.slow),
    pytest.param("vit_large_patch16_224", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_named_models(name: str) -> None:
    assert difference(name, num_classes=20) <= TOLERANCE


VARIANTS: dict[str, tuple[str, dict[str, int | float | str | bool]]] = {
    "plain": ("vit_tiny_patch16_224", {}),
    "grey": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 1e-5}),
    "deit III": ("deit3_small_patch16_224", {}),
    "query norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "pre-norm": ("vit_base_patch32_clip_224", {}),
    "pre-norm, quick GELU": ("vit_base_patch32_clip_quickgelu_224", {}),
    "registers and mean": ("vit_wee_patch16_reg1_gap_256", {}),
    "four registers and mean": ("vit_little_patch16_reg4_gap_256", {}),
    "registers behind a class token": ("vit_tiny_patch16_224", {"reg_tokens": 2}),
    "positions for patches alone": ("vit_tiny_patch16_224", {"reg_tokens": 2, "no_embed_class": True}),
    "mean, normed after": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "mean, normed before": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "fc_norm": False}),
    "mean beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "mean with the class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
    "token, normed after": ("vit_tiny_patch16_224", {"fc_norm": True}),
    "no final norm": ("vit_tiny_patch16_224", {"final_norm": False}),
    "siglip, tanh GELU": ("vit_base_patch16_siglip_gap_224", {}),
    "no biases": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "narrow MLP": ("vit_tiny_patch16_224", {"mlp_ratio": 1.5}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    name, options = VARIANTS[variant]
    assert difference(name, batch=3, **{**SMALL, **options}) <= TOLERANCE


@settings(max_examples=12)
@given(
    reg_tokens=st.integers(0, 2),
    class_token=st.booleans(),
    no_embed_class=st.booleans(),
    pre_norm=st.booleans(),
    qk_norm=st.booleans(),
    init_values=st.none() | st.just(0.1),
    average=st.booleans(),
    fc_norm=st.none() | st.booleans(),
    pool_include_prefix=st.booleans(),
)
def test_any_combination_of_options(average: bool, class_token: bool, **options: bool | int | float | None) -> None:
    options = {key: value for key, value in options.items() if value is not None}
    average = average or not class_token
    found = difference(
        "vit_tiny_patch16_224",
        **SMALL,
        **options,
        class_token=class_token,
        global_pool="avg" if average else "token",
    )
    assert found <= TOLERANCE


def test_rms_norms() -> None:
    from timm.layers import RmsNorm

    assert difference("vit_tiny_patch16_224", **SMALL, norm_layer=RmsNorm, qk_norm=True) <= TOLERANCE


def test_not_square() -> None:
    assert difference("vit_tiny_patch16_224", **{**SMALL, "img_size": (16, 32), "patch_size": (8, 4)}) <= TOLERANCE


def test_what_is_folded() -> None:
    """LayerScale and both heads of a distilled model vanish; class, distillation and register tokens become prefix."""
    imported = import_model(ModelSource("timm:deit_tiny_distilled_patch16_224", "random", options=tuple(SMALL.items())))
    assert (imported.spec.stem.prefix, imported.spec.pool.count) == (2, 2)
    assert (imported.head.features, imported.head.classes) == (48, 7)
    scaled = import_model(
        ModelSource("timm:vit_tiny_patch16_224", "random", options=(*SMALL.items(), ("init_values", 1e-2)))
    )
    plain = import_model(ModelSource("timm:vit_tiny_patch16_224", "random", options=tuple(SMALL.items())))
    assert scaled.spec == plain.spec
    assert not scaled.training


def test_a_random_model_is_its_seed() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        source = ModelSource("timm:vit_tiny_patch16_224", "random", options=tuple(SMALL.items()), seed=seed)
        return list(import_model(source).state_dict().values())

    once, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(once, other, strict=True))


def test_normalisation_of_the_source_comes_first() -> None:
    options = tuple(SMALL.items())
    own = import_model(ModelSource("timm:deit_tiny_patch16_224", "random", options=options)).stem
    assert own.mean.tolist() == pytest.approx([255 * x for x in (0.485, 0.456, 0.406)])
    assert own.std.tolist() == pytest.approx([255 * x for x in (0.229, 0.224, 0.225)])
    given_ = import_model(
        ModelSource("timm:deit_tiny_patch16_224", "random", None, options, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    ).stem
    assert given_.mean.tolist() == pytest.approx([25.5, 51, 76.5])
    assert given_.std.tolist() == pytest.approx([102, 127.5, 153])
    grey = import_model(ModelSource("timm:deit_tiny_patch16_224", "random", None, (*options, ("in_chans", 1)))).stem
    assert grey.mean.tolist() == pytest.approx([255 * (0.485 + 0.456 + 0.406) / 3])


@pytest.mark.parametrize("weights", ["safetensors", "pth"])
def test_import_from_a_file(weights: str, tmp_path: Path) -> None:
    model = timm_model("vit_tiny_patch16_224", **SMALL)
    path = tmp_path / f"weights.{weights}"
    if weights == "safetensors":
        save_weights(model, path)
    else:
        torch.save({"model": model.state_dict()}, path)
    pixels = random_inputs(model)
    got = import_model(ModelSource("timm:vit_tiny_patch16_224", "file", path, tuple(SMALL.items())))
    with torch.inference_mode():
        torch.testing.assert_close(got(pixels), timm_logits(model, pixels), atol=TOLERANCE, rtol=0)


def test_a_wrong_import_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the importer to forget LayerScale, its own check would say so."""
    monkeypatch.setattr(timm_vit, "scaled", lambda linear, gamma: linear)
    source = ModelSource("timm:vit_tiny_patch16_224", "random", options=(*SMALL.items(), ("init_values", 1e-2)))
    with pytest.raises(
        CheckFailed, match=r"^model 'timm:vit_tiny_patch16_224': imported logits differ by \d"
    ) as caught:
        import_model(source)
    assert caught.value.exit_code == 1


def refusal(source: ModelSource) -> tuple[int, str]:
    """Exit code and text of the error that an import ends with."""
    with pytest.raises(CoformerError) as caught:
        import_model(source)
    return caught.value.exit_code, str(caught.value)


def test_an_unknown_library() -> None:
    assert refusal(ModelSource("tim:vit_tiny_patch16_224", "random")) == (
        2,
        "model 'tim:vit_tiny_patch16_224': unknown model library 'tim'; write one of hf:MODEL, timm:MODEL",
    )
    assert refusal(ModelSource("vit", "random")) == (
        2,
        "model 'vit': unknown model library 'vit'; write one of hf:MODEL, timm:MODEL",
    )


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(CoformerError) as caught:
        import_model(ModelSource("timm:vit_tiny_patch16_22", "random"))
    assert (caught.value.what, caught.value.where) == ("timm has no model 'vit_tiny_patch16_22'", "model.name")
    assert caught.value.mend.startswith("did you mean vit_tiny_patch16_224 or ")
    assert refusal(ModelSource("timm:!!", "random")) == (
        2,
        "model.name: timm has no model '!!'; did you mean another?",
    )


@pytest.mark.parametrize(
    ("given_", "near"), [("image_size", "img_size"), ("num_class", "num_classes"), ("in_channels", "in_chans")]
)
def test_an_unknown_option_suggests_the_nearest(given_: str, near: str) -> None:
    assert refusal(ModelSource("timm:vit_tiny_patch16_224", "random", options=((given_, 3),))) == (
        2,
        f"model.options: unknown option '{given_}'; did you mean '{near}'?",
    )


def test_every_option_is_timms() -> None:
    import inspect

    from timm.models.vision_transformer import VisionTransformer

    assert set(OPTIONS) <= set(inspect.signature(VisionTransformer).parameters)


def test_options_that_timm_refuses() -> None:
    with pytest.raises(CoformerError) as caught:
        import_model(ModelSource("timm:vit_tiny_patch16_224", "random", options=(("num_heads", 5),)))
    assert caught.value.what.startswith("timm refuses the options (")
    assert (caught.value.where, caught.value.mend) == ("model 'timm:vit_tiny_patch16_224'", "check model.options")


def foreign(name: str, **options: object) -> str:
    """What the importer says of a model of timm's."""
    model = timm_model(name, **options)
    with pytest.raises(CoformerError) as caught:
        transformer_from_vit(model, ModelSource(f"timm:{name}", "random"))
    return str(caught.value)


def refused(what: str, mend: str, name: str = "vit_tiny_patch16_224") -> str:
    return f"model 'timm:{name}': cannot be imported: {what}; {mend}"


def test_foreign_blocks() -> None:
    from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock

    mend = "choose a model of plain blocks"
    for block in (ParallelThingsBlock, ParallelScalingBlock):
        told = foreign("vit_tiny_patch16_224", **SMALL, block_fn=block)
        assert told == refused(f"blocks.0 is a {block.__name__}", mend)


@pytest.mark.parametrize("pool", ["map", "max", "avgmax"])
def test_foreign_pooling(pool: str) -> None:
    mend = "set model.options.global_pool to 'token' or 'avg'"
    assert foreign("vit_tiny_patch16_224", **SMALL, global_pool=pool) == refused(f"pooling '{pool}'", mend)


def test_foreign_families() -> None:
    mend = "of this family VisionTransformer and its distilled form can be"
    assert foreign("resnet10t") == refused("it is a ResNet", mend, "resnet10t")
    assert refusal(ModelSource("timm:swinv2_tiny_window8_256", "random")) == (
        2,
        "model 'timm:swinv2_tiny_window8_256': cannot be imported: its family is 'swin_transformer_v2'; the importable "
        "families are vision_transformer, deit, beit, swin_transformer; the nearest is swin_transformer",
    )


def test_foreign_parts() -> None:
    from timm.layers import GluMlp

    told = {
        "mlp_layer": (GluMlp, "blocks.0.mlp is a GluMlp", "it can be Mlp"),
        "scale_attn_norm": (True, "blocks.0.attn.norm is a LayerNorm", "it can be Identity"),
        "scale_mlp_norm": (True, "blocks.0.mlp.norm is a LayerNorm", "it can be Identity"),
        "act_layer": (
            "leaky_relu",
            "blocks.0.mlp.act is a LeakyReLU",
            "it can be GELU, GELUTanh, ReLU, SiLU, QuickGELU",
        ),
        "dynamic_img_size": (
            True,
            "its patch embedding is not a plain convolution of fixed size",
            "choose another model",
        ),
    }
    for option, (value, what, mend) in told.items():
        assert foreign("vit_tiny_patch16_224", **{**SMALL, option: value}) == refused(what, mend)


def test_foreign_norms() -> None:
    from timm.layers import SimpleNorm

    mend = "it can be LayerNorm, RmsNorm, LayerNormFp32, LayerNormAct"
    assert foreign("vit_tiny_patch16_224", **SMALL, norm_layer=SimpleNorm) == refused("norm is a SimpleNorm", mend)


def test_a_model_without_a_classifier() -> None:
    source = ModelSource("timm:vit_tiny_patch16_224", "random", options=(*SMALL.items(), ("num_classes", 0)))
    assert refusal(source) == (
        2,
        "model 'timm:vit_tiny_patch16_224': cannot be imported: it has no classifier; set model.options.num_classes",
    )
