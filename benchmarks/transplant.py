"""What each part of the closed-form transplant is worth, without any training, on two worked examples.

Run: python benchmarks/transplant.py [digits] [glyphs], both where none is named; the glyphs need fonts first (sh
examples/glyphs/get_fonts.sh build/fonts). Writes benchmarks/results/transplant_NAME.json. Members of a third (three of
them) and of a quarter (four) of every width; figures are means over draws of calibration images, measured on validation
and test images together, which no fit has seen. Loss is cross-entropy with the labels in nats.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from coformer_compiler.config import Overrides, read_config
from coformer_compiler.data import Split, load_data
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.policy import MemberPolicy
from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.frontends import import_model
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.transplant import selection_of
from coformer_compiler.transplant.basis import BasisKind
from coformer_compiler.transplant.lesson import lesson_of
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_compiler.transplant.transplant import transplant_lesson

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHAPES = {"thirds": (3, 32, 2, 128), "quarters": (4, 24, 1, 64)}


@dataclass(frozen=True)
class Example:
    """One worked example: its configuration, how many draws of how many calibration images."""

    config: str
    draws: int
    calibration: int


EXAMPLES = {"digits": Example("digits/digits.toml", 5, 512), "glyphs": Example("glyphs/glyphs.toml", 3, 2048)}


@dataclass(frozen=True)
class Variant:
    """One way of making the members."""

    name: str
    basis: BasisKind | None = "per-norm"
    importance: str = "activation"
    token_weights: bool = True
    values: bool = True
    overlap: bool = False


VARIANTS = (
    Variant("index selection", basis=None),
    Variant("transplant, one basis for the stream, rows unweighted", basis="global", token_weights=False),
    Variant("transplant, one basis for the stream, the teacher's values", basis="global", values=False),
    Variant("transplant, one basis for the stream", basis="global"),
    Variant("transplant, one basis per norm, rows unweighted", token_weights=False),
    Variant("transplant, one basis per norm, the teacher's values", values=False),
    Variant("transplant, one basis per norm"),
    Variant("transplant, one basis per norm, Taylor ranking", importance="taylor"),
    Variant("transplant, one basis per norm, everyone takes the best", overlap=True),
)


@dataclass(frozen=True)
class Figures:
    """Accuracies in per cent, losses in nats; of the members the means."""

    aggregated: float
    aggregated_loss: float
    members: float
    members_loss: float


@torch.no_grad()
def figures_of(teacher: Transformer, variant: Variant, size: str, calibration: Split, unseen: Split) -> Figures:
    """Make the members of one variant and measure them."""
    found = statistics_from_batches(teacher, batches_of(calibration), variant.importance)
    if not variant.token_weights:
        found = dataclasses.replace(found, token_weights=tuple(torch.ones_like(w) for w in found.token_weights))
    policies = policies_of(teacher, found, size, overlap=variant.overlap, channels=variant.basis is None)
    priors = None
    if variant.basis is None:
        members = [teacher.take(selection_of(policy)) for policy in policies]
    else:
        pixels = torch.from_numpy(np.asarray(calibration.inputs))
        lesson = dataclasses.replace(lesson_of(teacher, found, variant.basis), refit_values=variant.values)
        made = transplant_lesson(lesson, policies, pixels)
        members, priors = made.members, made.priors
    lessons = [(pixels, teacher.features(pixels)) for pixels, _ in batches_of(calibration)]
    aggregator = fit_readouts(members, teacher.head, lessons, priors)
    batches = list(batches_of(unseen))
    labels = torch.cat([each for _, each in batches])
    features = [torch.cat([member.features(pixels) for pixels, _ in batches]) for member in members]
    together = aggregator(dict(enumerate(features)))
    alone = [member.head(each) for member, each in zip(members, features, strict=True)]
    return Figures(
        accuracy(together, labels),
        float(F.cross_entropy(together, labels)),
        statistics.fmean(accuracy(logits, labels) for logits in alone),
        statistics.fmean(float(F.cross_entropy(logits, labels)) for logits in alone),
    )


def policies_of(
    teacher: Transformer, found: Statistics, size: str, *, overlap: bool, channels: bool
) -> Sequence[MemberPolicy]:
    """Equal members of the given size."""
    count, embed, heads, neurons = SHAPES[size]
    layers = range(len(teacher.spec.layers))
    shape = MemberShape(embed, dict.fromkeys(layers, heads), dict.fromkeys(layers, neurons))
    scores = {(block.kind, block.layer): s for block, s in zip(teacher.residuals, found.scores, strict=True)}
    ranked = found.channel_scores if channels else None
    if overlap:
        return [members_from_shapes([str(n)], [shape], scores, ranked)[0] for n in range(count)]
    return members_from_shapes([str(n) for n in range(count)], [shape] * count, scores, ranked)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent of right answers."""
    return 100 * float((logits.argmax(-1) == labels).float().mean())


def mean_of(rows: Sequence[Figures], field: Callable[[Figures], float]) -> dict[str, float]:
    """Mean and standard deviation over the draws."""
    values = [field(row) for row in rows]
    return {"mean": round(statistics.fmean(values), 4), "deviation": round(statistics.stdev(values), 4)}


def main() -> None:
    """Measure the examples that are named."""
    for name in sys.argv[1:] or EXAMPLES:
        measure(name, EXAMPLES[name])


def measure(name: str, example: Example) -> None:
    """Measure all variants on one example, print a table and write the raw figures."""
    config = read_config(ROOT / "examples" / example.config, Overrides())
    teacher = import_model(config.model)
    channels, height, width = teacher.stem.spec.input.shape
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for size in SHAPES:
        result[size] = {}
        print(f"\n{name}, {size}: aggregated accuracy % (loss), members' mean accuracy % (loss)")
        for variant in VARIANTS:
            rows = []
            for seed in range(example.draws):
                data = load_data(
                    config.data.source,
                    image_size=(height, width),
                    channels=channels,
                    seed=seed,
                    calibration=example.calibration,
                )
                unseen = Split(
                    np.concatenate([data.validation.inputs, data.test.inputs]),
                    np.concatenate([data.validation.labels, data.test.labels]),
                )
                rows.append(figures_of(teacher, variant, size, data.calibration, unseen))
            fields = [field.name for field in dataclasses.fields(Figures)]
            found = {field: mean_of(rows, attrgetter(field)) for field in fields}
            result[size][variant.name] = found
            print(
                f"{variant.name:60} {found['aggregated']['mean']:5.1f} ({found['aggregated_loss']['mean']:.3f})"
                f"   {found['members']['mean']:5.1f} ({found['members_loss']['mean']:.3f})",
                flush=True,
            )
    path = RESULTS / f"transplant_{name}.json"
    path.write_text(json.dumps({"seeds": example.draws, "calibration": example.calibration, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
