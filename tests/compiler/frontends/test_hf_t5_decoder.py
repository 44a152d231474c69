"""T5 with its decoder: the library's answers, teacher-forced, from every form of folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.hf_t5_decoder import random_texts
from coformer_compiler.frontends.hf_t5_parts import relative_buckets
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_runtime.errors import CoformerError
from tests.compiler.frontends.hf_models import SMALL, save_hf, source_of
from tests.compiler.frontends.test_hf_t5 import REAL

TOLERANCE = 1e-4
READ, WRITTEN, WORDS = 20, 150, 50  # what is written is beyond the distance from which all places share a bucket
FLAN = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def writing_t5(**options: Any) -> Any:
    """The library's T5 for conditional generation, with weights of which none is near zero."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=WORDS, **{**SMALL["t5"], "num_decoder_layers": 3, "decoder_start_token_id": 0, **options}
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if name == "shared.weight" else parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def answers(model: Any, imported: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's and ours where there is no padding, on texts of unlike length."""
    inputs = random_texts(imported)
    mask, read = imported.feature_mask(inputs), imported.stem.spec.tokens
    assert mask is not None and not mask.all()
    ids = inputs.clamp(max=WORDS - 1).long()
    found = model(
        input_ids=ids[:, :read], attention_mask=(inputs[:, :read] != 0).long(), decoder_input_ids=ids[:, read:]
    )
    return found.logits[mask], imported(inputs)[mask]


@pytest.mark.parametrize("options", [{}, {"feed_forward_proj": "gated-gelu"}], ids=["relu", "gated"])
def test_answers_are_the_librarys(options: dict[str, Any], tmp_path: Path) -> None:
    model = writing_t5(**options)
    save_hf(model, tmp_path / "t5")
    imported = import_model(source_of(tmp_path / "t5", length=READ, target_length=WRITTEN))
    want, got = answers(model, imported)
    assert want.std() > 0.1
    assert float((want - got).abs().max()) < TOLERANCE


def test_a_head_of_its_own(tmp_path: Path) -> None:
    """T5 v1.1 has one, and does not scale what it reads."""
    model = writing_t5(**FLAN)
    save_hf(model, tmp_path / "t5", tie_word_embeddings=False)
    path = tmp_path / "t5" / "model.safetensors"
    head = torch.randn(WORDS, 24)
    save_file({**load_file(path), "lm_head.weight": head}, path, {"format": "pt"})
    imported = import_model(source_of(tmp_path / "t5", length=READ, target_length=8))
    model.lm_head.weight = torch.nn.Parameter(head)
    want, got = answers(model, imported)
    assert want.std() > 0.1
    assert float((want - got).abs().max() / want.abs().max()) < TOLERANCE
    torch.testing.assert_close(imported.head.linear.weight, head)


def test_the_layers_of_both_stacks_are_counted_on(tmp_path: Path) -> None:
    save_hf(writing_t5(), tmp_path / "t5")
    imported = import_model(source_of(tmp_path / "t5", length=READ, target_length=8))
    names = imported.spec.block_names
    assert names[:5] == ("layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp", "stages.0.bridge")
    assert names[5:8] == ("layers.2.attention", "layers.2.cross", "layers.2.mlp") and len(names) == 14
    assert imported.spec.stem.input.shape == (READ + 8,)
    assert imported.spec.bridge is not None and imported.spec.bridge.start == 0


@torch.no_grad()
def test_streams_beyond_half_precision_are_divided(tmp_path: Path) -> None:
    """The encoder's and the decoder's, each by a power of two of its own."""
    model = writing_t5(feed_forward_proj="gated-gelu")
    for name, parameter in model.named_parameters():
        if name.endswith((".wo.weight", ".o.weight")):
            parameter.mul_(2.0**18 if name.startswith("encoder") else 2.0**14)
    save_hf(model, tmp_path / "t5")
    imported = import_model(source_of(tmp_path / "t5", length=READ, target_length=8))
    want, got = answers(model, imported)
    assert float((want - got).abs().max() / want.abs().max()) < TOLERANCE
    assert 1 < float(imported.flow(random_texts(imported)).x.abs().max()) <= 1024


def test_buckets_are_the_librarys() -> None:
    ensure_torchvision_operators()
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-700, 701)
    for buckets, farthest in ((32, 128), (32, 64), (16, 40), (64, 300)):
        want = T5Attention._relative_position_bucket(distances, False, buckets, farthest)
        assert torch.equal(relative_buckets(distances, buckets, farthest, both=False), want)


def refused(source: ModelSource) -> str:
    with pytest.raises(CoformerError) as caught:
        import_model(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 1}, "length = 1; give 2 tokens or more"),
        ({"target_length": 1}, "target_length = 1; give 2 tokens or more"),
        ({"normalise": True}, "unknown option 'normalise'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_hf(writing_t5(), tmp_path / "t5")
    assert said in refused(source_of(tmp_path / "t5", **options))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_decoder_layers": 2}, "tensors belong to no part of a 't5': decoder.block.2."),
        ({"num_decoder_layers": 4}, "'decoder.block.3.layer.0.SelfAttention.q.weight' is missing"),
        ({"tie_word_embeddings": False}, "its head is not tied to the words, and 'lm_head.weight' is missing"),
    ],
)
def test_a_config_that_does_not_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(save_hf(writing_t5(), tmp_path / "t5", **change))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_shapes(name: str, tmp_path: Path) -> None:
    """The import compares all answers with the library's own model."""
    kind = REAL[name].get("model_type", "t5")
    untied = {"tie_word_embeddings": False} if name != kind and not name.startswith("t5-") else {}
    writes = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}[kind]
    config = {"model_type": kind, **REAL[name], **untied, "architectures": [writes]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = ModelSource(f"hf:{name}", "random", tmp_path, (("length", 16), ("target_length", 8)))
    imported = import_model(source)
    assert imported.head.classes == config.get("vocab_size", 32128)
