"""Untrained members of really trained models of every family: index selection against transplanting.

Run: python benchmarks/families_transplant.py [FAMILY …], all of them where none is named. ViT is the digits' teacher,
"ViT, glyphs" that of examples/glyphs (needs its fonts), BERT is MiniLM with the head of examples/debian_topics (needs
prepare.py), GPT-2 that of examples/docstrings (needs train_teacher.py), the others are the tiny stand-ins of
standins.py, trained first. Three members of a third and two of a half of every width, and of MiniLM one member with
half the stream and every head and neuron, which tells what the basis of a norm alone costs. Figures are on validation
and test samples together, which no fit has seen. Writes results/families_transplant.json, keeping the figures of
families that are not named.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from standins import CALIBRATION, ROOT, STANDINS

from coformer_compiler.config import Overrides, read_config
from coformer_compiler.data import DataSet, load_data, load_running_text
from coformer_compiler.data.load import load_texts
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import MemberPolicy, teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, full_shape
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.spec import PatchStemSpec, TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.transplant import selection_of
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

RESULT = ROOT / "benchmarks" / "results" / "families_transplant.json"
PARTS = {"thirds": 3, "halves": 2}
NARROWED = {"BERT": (192,)}
"""Widths of the stream of a member that keeps every head and neuron, by family."""
METHODS: dict[str, BasisKind | None] = {
    "index selection": None,
    "one basis": "global",
    "one per norm": "per-norm",
}
Teacher = tuple[Transformer, DataSet]


def example(path: str) -> Callable[[], Teacher]:
    """The teacher and the data of a worked example."""

    def made() -> Teacher:
        config = read_config(ROOT / "examples" / path, Overrides())
        teacher = import_model(config.model)
        stem = teacher.stem.spec
        if isinstance(stem, PatchStemSpec):
            data = load_data(
                config.data.source, image_size=stem.image_size, channels=stem.channels, calibration=CALIBRATION
            )
            return teacher, data
        assert isinstance(stem, TokenStemSpec) and config.model.checkpoint is not None
        tokenizer = read_tokenizer(config.model.checkpoint, stem)
        return teacher, load_texts(config.data.source, tokenizer, calibration=CALIBRATION, truncate=True)

    return made


def docstrings() -> Teacher:
    """GPT-2 of examples/docstrings; accuracy is that of the next token."""
    folder = ROOT / "build" / "docstrings"
    if not (folder / "teacher").is_dir():
        raise SystemExit("first: python examples/docstrings/train_teacher.py build/docstrings")
    teacher = import_model(ModelSource("hf:teacher", "file", folder / "teacher", (("length", 64),)))
    assert isinstance(teacher.stem.spec, TokenStemSpec)
    tokenizer = read_tokenizer(folder / "teacher", teacher.stem.spec)
    return teacher, load_running_text(f"corpus:{folder / 'corpus.txt'}", tokenizer, calibration=CALIBRATION // 4)


FAMILIES: dict[str, Callable[[], Teacher]] = {
    "ViT": example("digits/digits.toml"),
    "ViT, glyphs": example("glyphs/glyphs.toml"),
    "BERT": example("debian_topics/topics.toml"),
    "GPT-2": docstrings,
    **STANDINS,
}
"""Trained teachers by family."""


def main() -> None:
    """Measure the families that are named, print a table, write the figures."""
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in sys.argv[1:] or FAMILIES:
        start = time.process_time()
        teacher, data = FAMILIES[name]()
        print(f"{name}: teacher after {time.process_time() - start:.0f} CPU seconds", flush=True)
        known[name] = measured(teacher, data, NARROWED.get(name, ()))
        RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(table(known))
    for name, widths in NARROWED.items():
        for width in widths if name in known else ():
            print(f"{name}, {narrowed_name(width)}: {json.dumps(known[name].get(narrowed_name(width)))}")


def narrowed_name(width: int) -> str:
    """Key of a narrowed member's figures."""
    return f"embed {width}, every head and neuron"


def table(known: dict[str, Any]) -> str:
    """Aggregated accuracy in per cent and loss in nats, as docs/method.md prints them."""

    def cell(figures: dict[str, float] | None) -> str:
        return "" if figures is None else f"{figures['accuracy']:.1f} ({figures['loss']:.3f})"

    columns = [(size, method) for size in PARTS for method in METHODS]
    lines = [["family", "teacher", *(f"{size}: {method}" for size, method in columns)], ["---"] * (2 + len(columns))]
    for name in [each for each in FAMILIES if each in known]:
        found = known[name]
        cells = [cell(found[size].get(method, {}).get("aggregated")) for size, method in columns]
        lines.append([name, cell(found["teacher"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@torch.no_grad()
def measured(teacher: Transformer, data: DataSet, widths: Sequence[int] = ()) -> dict[str, object]:
    """Figures of one family: accuracy in per cent and cross-entropy in nats; of running text, of the next token.

    `widths` are those of members that keep every head and neuron.
    """
    found = statistics_from_batches(teacher, batches_of(data.calibration), task=data.train.task)
    unseen = [*batches_of(data.validation), *batches_of(data.test)]

    def figures(answers: Iterable[torch.Tensor]) -> dict[str, float]:
        task, parts = data.train.task, []
        for each, (_, labels) in zip(answers, unseen, strict=True):
            scores = task.scored(each, labels), float(task.loss(each, labels).mean())
            parts.append([len(labels) * score for score in scores])
        right, loss = np.sum(parts, 0) / sum(len(labels) for _, labels in unseen)
        return {"accuracy": round(100 * float(right), 2), "loss": round(float(loss), 4)}

    result: dict[str, object] = {"unseen": sum(len(labels) for _, labels in unseen)}
    result |= {"calibration": len(data.calibration), "teacher": figures(teacher(inputs) for inputs, _ in unseen)}
    print("  teacher", result["teacher"], flush=True)
    inputs = torch.from_numpy(np.asarray(data.calibration.inputs))
    lessons = [(each, teacher.features(each)) for each, _ in batches_of(data.calibration)]
    kinds = {size: [part_of(teacher, count)] * count for size, count in PARTS.items()}
    kinds |= {narrowed_name(width): [narrowed(teacher, width)] for width in widths}
    for size, shapes in kinds.items():
        rows: dict[str, object] = {}
        for method, basis in METHODS.items():
            if basis == "global" and teacher.spec.post_norm:
                continue
            policies = shared_out(teacher, found, shapes, channels=basis is None)
            if basis is None:
                members, priors = [teacher.take(selection_of(policy)) for policy in policies], None
            else:
                made = transplant(teacher, found, policies, inputs, basis=basis)
                members, priors = made.members, made.priors
            aggregator = fit_readouts(members, teacher.head, lessons, priors)
            features = [[member.features(each) for member in members] for each, _ in unseen]
            alone = [figures(member.head(each[n]) for each in features) for n, member in enumerate(members)]
            together = figures(aggregator(dict(enumerate(each))) for each in features)
            rows[method] = {"aggregated": together, "members": alone}
            print(f"  {size:7} {method:26} {together}", flush=True)
        result[size] = rows
    return result


def part_of(teacher: Transformer, count: int) -> MemberShape:
    """One part in `count` of every width."""
    whole = full_shape(teacher_shape(teacher.spec))
    return MemberShape(
        whole.embed // count,
        {layer: heads // count for layer, heads in whole.heads.items()},
        {layer: neurons // count for layer, neurons in whole.neurons.items()},
    )


def narrowed(teacher: Transformer, width: int) -> MemberShape:
    """Every head and neuron around a narrower stream."""
    return replace(full_shape(teacher_shape(teacher.spec)), embed=width)


def shared_out(
    teacher: Transformer, found: Statistics, shapes: Sequence[MemberShape], *, channels: bool
) -> list[MemberPolicy]:
    """Members of these shapes, with the units that statistics choose."""
    scores = {(block.kind, block.layer): each for block, each in zip(teacher.residuals, found.scores, strict=True)}
    names = [str(n) for n in range(len(shapes))]
    return list(members_from_shapes(names, list(shapes), scores, found.channel_scores if channels else None))


if __name__ == "__main__":
    main()
