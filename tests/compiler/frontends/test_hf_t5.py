"""T5 and Flan-T5 encoders: the library's hidden states and answers, from every form of folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.hf_encoder import random_ids
from coformer_compiler.frontends.hf_t5_parts import relative_buckets
from coformer_compiler.model.attention import Attention
from coformer_compiler.model.transformer import Selection, Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_passes.runner import legalise
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target
from tests.compiler.frontends.families import sliced
from tests.compiler.frontends.hf_models import SMALL, hf_model, save_hf, source_of
from tests.compiler.tiny import random_inputs

TOLERANCE = 1e-4
GATED = {"feed_forward_proj": "gated-gelu"}
LENGTH = 150  # beyond the distance from which all places share a bucket


@torch.no_grad()
def pooled(model: Any, imported: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over real tokens of the library's answers, and ours, on the same padded texts."""
    stem: Any = imported.stem
    ids = random_ids(stem.spec)
    mask = stem.mask(ids)
    found = model(input_ids=ids.long(), attention_mask=mask.long())
    answers = found.logits if "logits" in found else found.last_hidden_state
    return (answers * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), imported(ids)


@pytest.mark.parametrize("options", [{}, GATED, {"feed_forward_proj": "silu"}], ids=["relu", "gated", "silu"])
def test_a_classifier_stands_on_the_mean(options: dict[str, Any], tmp_path: Path) -> None:
    model = hf_model("t5", **options)
    save_hf(model, tmp_path / "t5")
    imported = import_model(source_of(tmp_path / "t5", length=LENGTH))
    want, got = pooled(model, imported)
    assert want.std() > 0.1
    assert float((want - got).abs().max()) < TOLERANCE


@pytest.mark.parametrize("form", ["encoder", "whole", "untied copies"])
def test_an_embedding_comes_from_every_form_of_folder(form: str, tmp_path: Path) -> None:
    """Of an encoder, and of a whole model where the options ask for its encoder."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    torch.manual_seed(1)
    whole = T5ForConditionalGeneration(T5Config(vocab_size=50, **SMALL["t5"], **GATED)).eval()
    encoder = T5EncoderModel(T5Config(vocab_size=50, **SMALL["t5"], **GATED)).eval()
    encoder.load_state_dict(whole.state_dict(), strict=False)
    (encoder if form == "encoder" else whole).save_pretrained(tmp_path / "t5")
    if form == "untied copies":
        (tmp_path / "t5" / "model.safetensors").unlink()
        torch.save(whole.state_dict(), tmp_path / "t5" / "pytorch_model.bin")
    options = {"length": 20} if form == "encoder" else {"length": 20, "part": "encoder"}
    want, got = pooled(encoder, import_model(source_of(tmp_path / "t5", **options)))
    assert float((want - got).abs().max() / want.abs().max()) < TOLERANCE


def test_buckets_are_the_librarys() -> None:
    ensure_torchvision_operators()
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-700, 701)
    for buckets, farthest in ((32, 128), (32, 64), (16, 40), (64, 300)):
        want = T5Attention._relative_position_bucket(distances, True, buckets, farthest)
        assert torch.equal(relative_buckets(distances, buckets, farthest), want)


def attentions(model: Transformer) -> list[Attention]:
    return [block.branch for block in model.residuals if isinstance(block.branch, Attention)]


def test_relative_positions_survive_the_first_layer(tmp_path: Path) -> None:
    """They are the first layer's in the checkpoint; a member without that layer has them, cut to its own heads."""
    save_hf(hf_model("t5"), tmp_path / "t5")
    model = import_model(source_of(tmp_path / "t5", length=12))
    first, second = (attention.score_bias for attention in attentions(model))
    assert first is not None and second is not None and torch.equal(first, second)
    full = sliced(model, 1).lower("whole")
    assert sum(name.endswith("score_bias") for name in full.graph.initializers) == 1, "all layers share one table"
    channels = tuple(range(24))
    taken = model.take(Selection((channels,), {1: (2, 0)}, {1: tuple(range(0, 40, 3))}))
    (left,) = attentions(taken)
    assert left.score_bias is not None and torch.equal(left.score_bias, first[[2, 0]])
    assert replace(left.spec, heads=3) == attentions(model)[1].spec


def loud(folder: Path, factor: float) -> tuple[Any, Transformer]:
    """The library's model with a stream this much larger, and ours, imported."""
    model = hf_model("t5", **GATED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("shared.weight", ".wo.weight", ".o.weight")):
                parameter.mul_(factor)
    save_hf(model, folder)
    return model, import_model(source_of(folder, length=12))


def largest(teacher: Transformer) -> float:
    """Of the stream, before the final norm."""
    ids = random_ids(teacher.stem.spec)  # type: ignore[arg-type]
    x = teacher.stem(ids)
    for block in teacher.residuals:
        x = block(x, teacher.stem.mask(ids))
    return float(x.abs().max())


@torch.no_grad()
def test_a_stream_beyond_half_precision_is_divided(tmp_path: Path) -> None:
    """By a power of two: the answers are those of the stream as it was, and the library's."""
    model, teacher = loud(tmp_path / "loud", 2.0**18)
    assert 1 < largest(teacher) <= 1024
    want, got = pooled(model, teacher)
    assert float((want - got).abs().max()) < TOLERANCE
    _, quiet = loud(tmp_path / "quiet", 1.0)
    ids = random_ids(quiet.stem.spec)  # type: ignore[arg-type]
    assert torch.equal(quiet.stem.words, hf_model("t5", **GATED).transformer.shared.weight)
    torch.testing.assert_close(teacher(ids), quiet(ids), atol=1e-5, rtol=1e-5)
    assert Transformer(teacher.spec).state_dict().keys() == teacher.state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize("target", ["jetson-nano", "jetson-orin-nano"])
def test_large_streams_survive_half_precision(target: str, tmp_path: Path) -> None:
    """Their squares are beyond float16 all the same: norms are computed in float32."""
    _, teacher = loud(tmp_path / "t5", 2.0**18)
    samples = random_inputs(teacher.spec, 3)
    assert float(teacher.stem(samples).square().max()) > 65504
    half = replace(load_target(target), precisions=("float16", "float32"))
    graph = legalise(teacher.lower("member"), half, {"ids": samples.numpy()})
    assert any(node.op_type == "Cast" for node in graph.graph)
    import onnxruntime

    ir.save(graph, tmp_path / "half.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "half.onnx"), providers=["CPUExecutionProvider"])
    for sample in samples.split(1):
        (found,) = session.run(None, {"ids": sample.numpy()})
        want = teacher.features(sample).numpy()
        assert np.abs(found - want).max() < 1e-2 * np.abs(want).max()


def refused(source: ModelSource) -> str:
    with pytest.raises(CoformerError) as caught:
        import_model(source)
    return str(caught.value)


def test_a_decoder_that_writes_no_text_is_refused_with_what_is_nearest(tmp_path: Path) -> None:
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForQuestionAnswering

    save_hf(T5ForQuestionAnswering(T5Config(vocab_size=50, **SMALL["t5"])), tmp_path / "t5")
    said = refused(source_of(tmp_path / "t5"))
    assert "a t5 that writes no text is not supported (T5ForQuestionAnswering)" in said
    assert "use a t5 ForConditionalGeneration, or its encoder, for classification and embeddings: set model." in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 1}, "length = 1; give 2 tokens or more"),
        ({"part": "decoder"}, "part = 'decoder'; give 'encoder', or leave it away"),
        ({"pool": "cls"}, "unknown option 'pool'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_hf(hf_model("t5"), tmp_path / "t5")
    assert said in refused(source_of(tmp_path / "t5", **options))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"d_ff": 48}, "DenseReluDense.wi.weight' is [40, 24], config.json says [48, 24]"),
        ({"d_kv": 5}, "SelfAttention.q.weight' is [18, 24], config.json says [15, 24]"),
        ({"is_gated_act": True}, "DenseReluDense.wi_0.weight' is missing"),
        ({"num_layers": 1}, "tensors belong to no part of a 't5': transformer.encoder.block.1."),
        ({"model_type": "t6"}, "model_type 't6' is not supported; did you mean the model type 't5'?"),
    ],
)
def test_a_config_that_does_not_fit(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(save_hf(hf_model("t5"), tmp_path / "t5", **change))


SMALLEST = {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
BASE = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
LARGE = {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}
REAL: dict[str, dict[str, Any]] = {
    "t5-small": SMALLEST,
    "t5-base": BASE,
    "t5-large": LARGE,
    "flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6, **GATED},
    "flan-t5-base": {**BASE, "d_ff": 2048, **GATED},
    "flan-t5-large": {**LARGE, "d_ff": 2816, **GATED},
    "mt5-small": {"model_type": "mt5", "d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
    | {"vocab_size": 250112},
}
"""Configurations as they are published; what is left out is the library's default."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_shapes(name: str, tmp_path: Path) -> None:
    """The import compares hidden states with the library's own model; pooled answers are compared here."""
    config = {"model_type": "t5", **REAL[name], "architectures": ["T5EncoderModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_model(ModelSource(f"hf:{name}", "random", tmp_path, (("length", 16),)))
    ensure_torchvision_operators()
    from transformers import AutoConfig, AutoModelForTokenClassification

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    want, got = pooled(model, imported)
    assert float((want - got).abs().max() / want.abs().max().clamp(min=1)) < TOLERANCE
