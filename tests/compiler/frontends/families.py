"""The table of families: what each row imports, and what every one of them has to pass.

A row is a small model of the family with random weights; a column is a check of it. `docs/families.md` prints both.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.decode import PLACES, cache_shapes, lower_decoder, lower_source, source_shapes
from coformer_compiler.model.transformer import Selection, Transformer
from coformer_compiler.stages.rounded_graph import opened_graph
from coformer_passes.pipeline import PIPELINES
from coformer_passes.runner import legalise
from coformer_targets import load_target, with_precision
from tests.compiler.frontends.hf_models import SMALL as TEXTS
from tests.compiler.tiny import random_inputs

TOLERANCE = 1e-4
RTX = ("rtx-ampere", "rtx-ada", "rtx-blackwell")
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
SWIN = {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 7}


class Family(NamedTuple):
    """A row: which models it stands for, and how a small one is made."""

    models: str
    make: Callable[[], Transformer]


def timm(name: str, options: dict[str, object]) -> Callable[[], Transformer]:
    """A timm model; `import_model` itself compares it with timm's own answer to 1e-4."""
    return lambda: import_model(ModelSource(f"timm:{name}", "random", options=tuple(options.items())))


def hf(kind: str, writes: str = "", **options: object) -> Callable[[], Transformer]:
    """A Hugging Face model; `import_model` itself compares it with transformers' own hidden states to 1e-4.

    `writes` names the library's class of a model that answers with a text: its logits are compared.
    """

    def make() -> Transformer:
        with tempfile.TemporaryDirectory() as folder:
            config = {"model_type": kind, "vocab_size": 50, "max_position_embeddings": 40, **TEXTS[kind], **options}
            config |= {"architectures": [writes]} if writes else {}
            (Path(folder) / "config.json").write_text(json.dumps(config))
            lengths = (("length", 12), *((("target_length", 7),) if writes else ()))
            return import_model(ModelSource(f"hf:{kind}", "random", Path(folder), lengths))

    return make


FLAN = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

FAMILIES = {
    "ViT": Family("timm `vit_*`", timm("vit_tiny_patch16_224", SMALL)),
    "DeiT": Family("timm `deit_*_distilled_*`", timm("deit_tiny_distilled_patch16_224", SMALL)),
    "DeiT III": Family("timm `deit3_*`", timm("deit3_small_patch16_224", SMALL)),
    "CLIP vision": Family("timm `vit_*_clip_*`", timm("vit_base_patch32_clip_quickgelu_224", SMALL)),
    "SigLIP vision": Family("timm `vit_*_siglip_gap_*`", timm("vit_base_patch16_siglip_gap_224", SMALL)),
    "BEiT": Family("timm `beit_*`, `beitv2_*`", timm("beit_base_patch16_224", SMALL)),
    "Swin": Family("timm `swin_*`", timm("swin_tiny_patch4_window7_224", SWIN)),
    "Swin S3": Family("timm `swin_s3_*`", timm("swin_s3_tiny_224", SWIN | {"window_size": (4, 8)})),
    "BERT": Family("hf `bert` (MiniLM too)", hf("bert")),
    "RoBERTa": Family("hf `roberta`", hf("roberta")),
    "DistilBERT": Family("hf `distilbert`", hf("distilbert")),
    "ELECTRA": Family("hf `electra`", hf("electra")),
    "GPT-2": Family("hf `gpt2`", hf("gpt2")),
    "T5 encoder": Family("hf `t5`", hf("t5")),
    "Flan-T5 encoder": Family("hf `t5` (T5 v1.1 too)", hf("t5", feed_forward_proj="gated-gelu")),
    "mT5 encoder": Family("hf `mt5`", hf("mt5")),
    "T5": Family("hf `t5`", hf("t5", "T5ForConditionalGeneration")),
    "Flan-T5": Family("hf `t5` (T5 v1.1 too)", hf("t5", "T5ForConditionalGeneration", **FLAN)),
    "mT5": Family("hf `mt5`", hf("mt5", "MT5ForConditionalGeneration", tie_word_embeddings=False)),
}
"""One line each. A family of another library makes its model here as well."""


def check_import(make: Callable[[], Transformer], folder: Path) -> None:
    """The importer proves itself against the original library."""
    model = make()
    answers = model(random_inputs(model.spec, 3))
    assert answers.isfinite().all() and answers.std(0).max() > 0


def check_full_slice(make: Callable[[], Transformer], folder: Path) -> None:
    """Keeping everything changes nothing."""
    model = make()
    inputs = random_inputs(model.spec, 3)
    torch.testing.assert_close(sliced(model, 1)(inputs), model(inputs), atol=1e-5, rtol=1e-5)


def check_half_slice(make: Callable[[], Transformer], folder: Path) -> None:
    """Every second channel, head and neuron, and one layer of each two."""
    model = make()
    half = sliced(model, 2)
    assert half.cost().params < 0.6 * model.cost().params
    assert half(random_inputs(model.spec, 3)).isfinite().all()


def check_lowered(make: Callable[[], Transformer], folder: Path) -> None:
    """The lowered half runs in ONNX Runtime as in torch."""
    import onnxruntime

    half = sliced(make(), 2)
    path = folder / "member.onnx"
    ir.save(half.lower("member"), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for inputs in random_inputs(half.spec, 2).split(1):
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        assert relative(found, half.sent(inputs).numpy()) < TOLERANCE


def check_legal(make: Callable[[], Transformer], folder: Path) -> None:
    """Every pass is proved on samples, and every operator is one of TensorRT 8.2.1, and of 10.3."""
    half = sliced(make(), 2)
    for target in ("jetson-nano", "jetson-orin-nano"):
        legal_graph(half, target, folder)


def check_old_runtime(make: Callable[[], Transformer], folder: Path) -> None:
    """The graphs for a Jetson Nano in onnx 1.8.1 and ONNX Runtime 1.10 under Python 3.6."""
    from tests.passes.old_onnx import old_outputs, old_python

    old_python()
    half = sliced(make(), 2)
    graph, name = legal_graph(half, "jetson-nano", folder), half.stem.spec.input.name
    for inputs in random_inputs(half.spec, 2).split(1):
        wide = inputs.to(torch.float32 if inputs.dtype == torch.uint8 else torch.int32)
        found = old_outputs(graph, **{name: wide.numpy()})["features"]
        assert relative(found, half.sent(inputs).numpy()) < TOLERANCE
    for part, (model, feeds) in decoder_graphs(half).items():
        path, plain = folder / f"{part}.onnx", folder / "plain.onnx"
        ir.save(model, plain)
        ir.save(legalise(model, load_target("jetson-nano"), [feeds]), path)
        with opened_graph(plain, "float32") as engine:
            wanted = engine.run(feeds)
        answers = old_outputs(path, **feeds)
        assert {each: relative(answers[each], wanted[each]) < TOLERANCE for each in wanted} == dict.fromkeys(
            answers, True
        )


def check_rtx_parser(make: Callable[[], Transformer], folder: Path) -> None:
    """NVIDIA's own parser has nothing to say against the graphs for Ampere, Ada and Blackwell, in both precisions."""
    import pytest

    from coformer_targets.tensorrt_rtx import parser_problems, rtx_is_installed

    if not rtx_is_installed():
        pytest.skip("tensorrt_rtx is not installed")
    half, path = sliced(make(), 2), folder / "member.onnx"
    parts = {"member": half.lower("member"), **{part: graph for part, (graph, _) in decoder_graphs(half).items()}}
    for name, precision, part in itertools.product(RTX, ("float32", "float16"), parts):
        target, graph = with_precision(load_target(name), precision), parts[part].clone()
        for each in PIPELINES[target.engine]:  # numbers are compared elsewhere, on members of more than 12 channels
            each(graph, target)
        ir.save(graph, path)
        assert parser_problems(path) == (), f"{name}, {precision}, {part}"


PASSED, NOT_RUN = "✓", "–"

CHECKS: dict[str, Callable[[Callable[[], Transformer], Path], None]] = {
    "import": check_import,
    "full slice": check_full_slice,
    "half slice": check_half_slice,
    "lowered": check_lowered,
    "legal on 8.2.1": check_legal,
    "ORT 1.10, Python 3.6": check_old_runtime,
    "TensorRT-RTX parser": check_rtx_parser,
}


def table(outcomes: Mapping[tuple[str, str], str]) -> str:
    """The table as `docs/families.md` prints it, with how each check of a family ended: `PASSED`, or nothing."""
    rows = [["family", "models", *CHECKS], ["---"] * (2 + len(CHECKS))]
    rows += [
        [name, family.models, *(outcomes.get((name, check), NOT_RUN) for check in CHECKS)]
        for name, family in FAMILIES.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def outcomes_in(printed: str) -> dict[tuple[str, str], str]:
    """The inverse of `table`."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines())
    return {(row[0], check): cell for row in rows for check, cell in zip(head[2:], row[2:], strict=True)}


def decoder_graphs(model: Transformer) -> dict[str, tuple[ir.Model, dict[str, np.ndarray]]]:
    """The graphs that a device which writes texts opens in place of the whole one, with inputs for each."""
    if model.spec.pool.kind != "causal":
        return {}
    random, texts = np.random.default_rng(0), model.texts.spec
    known = {**cache_shapes(model), **source_shapes(model)}
    held = {name: random.normal(size=shape).astype(np.float32) for name, shape in known.items()}

    def tokens(count: int) -> dict[str, np.ndarray]:
        words = random.integers(0, texts.pad, (1, count), np.int32)
        return {texts.input.name: words, PLACES: np.arange(2, 2 + count, dtype=np.int32)[None]}

    made = {"step": (lower_decoder(model, "step", 1), {**held, **tokens(1)})}
    if model.bridge is None:
        made["prefill"] = (lower_decoder(model, "prefill", 4), {**held, **tokens(4)})
    else:
        inputs = random_inputs(model.spec, 1).numpy()[:, : texts.before]
        made["source"] = (lower_source(model, "source"), {model.stem.spec.input.name: inputs})
    return made


def sliced(model: Transformer, step: int) -> Transformer:
    """The first of every `step` of everything; of layers, those of a stage that the step hits."""
    kept = [layer for stage in stages_of(model) for layer in stage[::step]]
    units = {(block.kind, block.layer): tuple(range(0, block.branch.units, step)) for block in model.residuals}
    return model.take(
        Selection(
            tuple(tuple(range(0, embed, step)) for embed in model.spec.embeds),
            {layer: units["attention", layer] for layer in kept},
            {layer: units["mlp", layer] for layer in kept},
            {layer: units["cross", layer] for layer in kept if ("cross", layer) in units},
        )
    )


def stages_of(model: Transformer) -> list[list[int]]:
    """The layers of each stage."""
    from coformer_compiler.decomposer.policy import teacher_shape

    return [list(stage) for stage in teacher_shape(model.spec).stage_layers]


def legal_graph(model: Transformer, target: str, folder: Path) -> Path:
    """The graph file of a member for a target."""
    samples = random_inputs(model.spec, 2).numpy()
    path = folder / f"{target}.onnx"
    ir.save(
        legalise(model.lower("member"), load_target(target), {model.stem.spec.input.name: samples}),
        path,
    )
    return path


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
