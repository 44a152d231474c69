"""Does the loss before any training rank policies as the loss after a calibration does?

Run: python benchmarks/search/fidelity.py [--policies 24] [--steps 100]. Prints Spearman's rank correlations over
policies of unlike shape for the digits teacher and writes benchmarks/results/search_fidelity.json. About 15 minutes on
a quiet core. The truth is the aggregated loss after a fixed calibration (every member alone by eq. (14), then the
closed-form aggregator), mean of two calibrations with other orders of samples.

- same images: proxy and truth on the test images, which nothing was fitted to or chosen by. The question above.
- other images: the proxy on the 300 validation images, as a search sees it, the truth on the 400 test images. What the
  two splits differ by is in it.
- ceilings: the same truth on both splits, and one calibration against the other. No proxy on other images can be
  expected to rank better than the truth itself does.

The proxies: the aggregated loss of members transplanted as a build does (1,024 samples, all penalties, values
refitted); the loss that a search counts (`Evaluator.score`: 256 samples, fewer penalties, values not refitted), judged
by the split in question; eq. (7) on transplanted and on index-selected members (the paper's); and the number of
parameters, of which more should mean less loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from scipy.stats import spearmanr
from setups import DELTA, ROOT, Setup, digits

from coformer_compiler.booster import BoosterOptions, BoosterResult, boost
from coformer_compiler.booster.judge import judge_all, judge_member
from coformer_compiler.data import DataSet, Split, load_data
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.search.space import Shapes
from coformer_compiler.evaluator.score import Evaluator
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress, RichProgress, SilentProgress
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.transplant import selection_of
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.transplant import transplant

RESULT = ROOT / "benchmarks" / "results" / "search_fidelity.json"
CPU = torch.device("cpu")
SEEDS = (0, 1)
SPLITS = ("validation", "test")
PROXIES = (
    "aggregated loss, transplanted",
    "the search's own score",
    "eq. (7), transplanted",
    "eq. (7), index-selected",
    "parameters",
)


Row = dict[str, dict[str, float]]
"""Split → figure → value."""


def policies_of(setup: Setup, count: int) -> list[Shapes]:
    """Random feasible policies in which every device takes part, by seed."""
    random, found = np.random.default_rng(0), []
    while len(found) < count:
        _, shapes = setup.space.drawn(random)
        if all(shape is not None for shape in shapes):
            found.append(shapes)
    return found


@torch.no_grad()
def transplanted(setup: Setup, shapes: Shapes, data: DataSet) -> list[Transformer]:
    """Members with their readouts fitted, as a build makes them."""
    inputs = torch.from_numpy(data.calibration.inputs)
    policies = members_from_shapes(names_of(setup), shapes, scores_of(setup), None)
    made = transplant(setup.teacher, setup.statistics, policies, inputs, basis="per-norm")
    lessons = [(part, setup.teacher.features(part)) for part, _ in batches_of(data.calibration)]
    fit_readouts(made.members, setup.teacher.head, lessons, made.priors)
    return made.members


@torch.no_grad()
def index_selected(setup: Setup, shapes: Shapes) -> list[Transformer]:
    """Members cut out of the teacher, its weights unchanged."""
    channels = setup.statistics.channel_scores
    policies = members_from_shapes(names_of(setup), shapes, scores_of(setup), channels)
    return [setup.teacher.take(selection_of(policy)) for policy in policies]


def names_of(setup: Setup) -> list[str]:
    """The devices' names."""
    return [device.name for device in setup.devices]


def scores_of(setup: Setup) -> dict[tuple[str, int], torch.Tensor]:
    """Importance of heads and neurons by kind and layer."""
    blocks = zip(setup.teacher.residuals, setup.statistics.scores, strict=True)
    return {(block.kind, block.layer): scores for block, scores in blocks}


def members_loss(members: Sequence[Transformer], split: Split) -> float:
    """Eq. (7): the mean of the members' own losses."""
    return statistics.fmean(judge_member(member.eval(), split, CPU).loss for member in members)


def together(boosted: BoosterResult, split: Split) -> float:
    """Aggregated loss of all members."""
    everyone = subset_name(range(len(boosted.members)))
    return judge_all(boosted.members, boosted.aggregator, split, CPU)[1][everyone].loss


def evaluators_of(setup: Setup, data: DataSet) -> dict[str, Evaluator]:
    """A search's evaluator for each split that candidates are judged by."""
    return {
        name: Evaluator(
            setup.teacher,
            setup.statistics,
            setup.devices,
            setup.calibration,
            split,
            basis="per-norm",
            network=setup.network,
            delta=DELTA,
        )
        for name, split in zip(SPLITS, (data.validation, data.test), strict=True)
    }


def judged(setup: Setup, shapes: Shapes, data: DataSet, evaluators: dict[str, Evaluator], steps: int) -> Row:
    """One policy: its proxies and the losses after each calibration, by split."""
    members, cut = transplanted(setup, shapes, data), index_selected(setup, shapes)

    def boosted(steps: int, seed: int) -> BoosterResult:
        options = BoosterOptions(steps=steps, joint_steps=0, device="cpu", seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            return boost(
                setup.teacher, members, data.train, data.validation, options, Path(folder) / "b", SilentProgress()
            )

    untrained, trained = boosted(0, 0), [boosted(steps, seed) for seed in SEEDS]
    params = float(sum(member.cost().params for member in members))
    return {
        name: {
            PROXIES[0]: together(untrained, split),
            PROXIES[1]: evaluators[name].score(shapes).loss,
            PROXIES[2]: members_loss(members, split),
            PROXIES[3]: members_loss(cut, split),
            PROXIES[4]: params,
            **{f"calibration {seed}": together(each, split) for seed, each in zip(SEEDS, trained, strict=True)},
        }
        for name, split in zip(SPLITS, (data.validation, data.test), strict=True)
    }


def correlations(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlations; see above."""

    def truth(split: str) -> list[float]:
        return [statistics.fmean(row[split][f"calibration {seed}"] for seed in SEEDS) for row in rows]

    def column(split: str, name: str) -> list[float]:
        return [row[split][name] * (-1 if name == "parameters" else 1) for row in rows]

    def rho(one: Sequence[float], other: Sequence[float]) -> float:
        return round(float(spearmanr(one, other)[0]), 3)

    return {
        "same images": {name: rho(column("test", name), truth("test")) for name in PROXIES},
        "other images": {name: rho(column("validation", name), truth("test")) for name in PROXIES},
        "ceilings": {
            "truth on both splits": rho(truth("validation"), truth("test")),
            "one calibration and the other": rho(*(column("test", f"calibration {seed}") for seed in SEEDS)),
        },
    }


def run(setup: Setup, policies: int, steps: int, progress: Progress) -> list[Row]:
    """All policies."""
    data = load_data("digits", image_size=(8, 8), channels=1, seed=0, calibration=1024)
    rows, evaluators = [], evaluators_of(setup, data)
    with progress.stage("fidelity", policies, unit="run") as stage:
        for shapes in policies_of(setup, policies):
            rows.append(judged(setup, shapes, data, evaluators, steps))
            stage.advance()
    return rows


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=24)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with RichProgress() as progress:
        rows = run(digits(), given.policies, given.steps, progress)
    found = correlations(rows)
    for title, values in found.items():
        print("\n".join([title, *(f"  {name:<32}{value:6.3f}" for name, value in values.items())]))
    content = {"setup": "digits", "steps": given.steps, "spearman": found, "policies": rows}
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
