"""What are the members worth by where their weights start: transplanted, by index selection, at random?

Usage: python benchmarks/starts.py [--config examples/digits/digits.toml] [--seeds 5] [--steps N] [--jobs 2]

Members of equal shapes are boosted with the same steps from each start, for several seeds (calibration samples, order
of training samples, random weights). Good starts want small steps and bad ones large: every start is tried with each of
the learning rates and counts with the one that validates best. Prints a table with mean and standard deviation over the
seeds on the test split and writes every run to benchmarks/results/starts.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("passes", "targets", "runtime"))]

import torch
from torch import nn

from coformer_compiler.artifact import Store
from coformer_compiler.booster import BoosterOptions, boost
from coformer_compiler.booster.history import Verdict
from coformer_compiler.booster.judge import judge_all, judge_member
from coformer_compiler.compile import load_build_data
from coformer_compiler.config import BuildConfig, Overrides, read_config
from coformer_compiler.data import DataSet
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.system import load_system
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress, RichProgress, SilentProgress
from coformer_compiler.stages.calibrate import calibrate
from coformer_compiler.stages.decompose import decompose_teacher, policy_of
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher
from coformer_compiler.stages.transplant import transplant_members

RESULT = ROOT / "benchmarks" / "results" / "starts.json"
CPU = torch.device("cpu")

Start = Literal["transplanted", "index-selected", "random"]
STARTS: tuple[Start, ...] = ("transplanted", "index-selected", "random")


@dataclass(frozen=True)
class Outcome:
    """One run: verdicts of the full set before and after training and of the members alone, on the test split.

    `validation` is the full set on the validation split.
    """

    start: Start
    seed: int
    learning_rate: float
    untrained: Verdict
    validation: Verdict
    aggregated: Verdict
    members: tuple[Verdict, ...]
    joint_kept: bool | None
    params: tuple[int, ...]
    seconds: float


def members_from(
    start: Start, config: BuildConfig, data: DataSet, store: Store
) -> tuple[Transformer, list[Transformer]]:
    """Teacher and untrained members; the random ones take the shapes of the transplanted ones."""
    imported = import_teacher(store, config.model)
    teacher = load_teacher(imported)
    method: Literal["transplant", "index"] = "index" if start == "index-selected" else "transplant"
    # The global basis: members without shortcut matrices, so that all three starts have the same shapes.
    section = config.policy.model_copy(update={"method": method, "basis": "global"})
    calibrated = calibrate(store, imported, teacher, data, section.importance)
    chosen = replace(config, policy=section)
    policy = decompose_teacher(store, (imported, calibrated), teacher, data, chosen)
    parents = (imported, calibrated, policy)
    made = transplant_members(store, parents, teacher, policy_of(policy), data, section)
    members = list(load_system(made.path).members)
    if start == "random":
        torch.manual_seed(config.seed)  # here, since importing a model seeds as well
        members = [_fresh(member) for member in members]
    return teacher, members


def _fresh(member: Transformer) -> Transformer:
    """Random weights in the same shape, with the input normalisation kept; tokens and positions as timm draws them."""
    made = Transformer(member.spec)
    made.stem.mean.copy_(member.stem.mean)
    made.stem.std.copy_(member.stem.std)
    for tokens in (made.stem.positions, made.stem.prefix):
        nn.init.normal_(tokens, std=0.02)
    return made


def run(start: Start, seed: int, config: BuildConfig, options: BoosterOptions) -> Outcome:
    """Boost from one start with one seed, on one thread."""
    torch.set_num_threads(1)
    config, options = replace(config, seed=seed), replace(options, seed=seed)
    began = time.monotonic()
    silent = SilentProgress()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cache", silent)
        imported = import_teacher(store, config.model)
        data = load_build_data(config, imported, load_teacher(imported))
        teacher, members = members_from(start, config, data, store)
        untrained, trained = [
            boost(teacher, members, data.train, data.validation, each, Path(folder) / name, silent)
            for name, each in (("untrained", replace(options, steps=0, joint_steps=0)), ("trained", options))
        ]
    before = judge_all(untrained.members, untrained.aggregator, data.test, CPU)[1]
    alone, together = judge_all(trained.members, trained.aggregator, data.test, CPU)
    everyone = subset_name(range(len(members)))
    joint = trained.history.joint
    return Outcome(
        start,
        seed,
        options.learning_rate,
        before[everyone],
        trained.history.subsets[everyone],
        together[everyone],
        alone,
        joint.kept if joint else None,
        tuple(member.cost().params for member in members),
        round(time.monotonic() - began, 1),
    )


def run_all(
    config: BuildConfig, options: BoosterOptions, seeds: int, rates: list[float], jobs: int, progress: Progress
) -> list[Outcome]:
    """Every start with every seed and learning rate."""
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [
            pool.submit(run, start, seed, config, replace(options, learning_rate=rate))
            for seed in range(seeds)
            for start in STARTS
            for rate in rates
        ]
        with progress.stage("starts", len(futures), unit="run") as stage:
            for future in as_completed(futures):
                done = future.result()
                stage.advance()
                rate = f"learning rate {done.learning_rate:g}"
                progress.note(f"{done.start}, seed {done.seed}, {rate}: {done.aggregated.accuracy:.2%}")
    return [future.result() for future in futures]


def best_by_validation(outcomes: list[Outcome]) -> list[Outcome]:
    """For every start and seed the run whose learning rate validates best."""
    best: dict[tuple[Start, int], Outcome] = {}
    for outcome in outcomes:
        known = best.setdefault((outcome.start, outcome.seed), outcome)
        if outcome.validation.better_than(known.validation):
            best[outcome.start, outcome.seed] = outcome
    return list(best.values())


def table(outcomes: list[Outcome], teacher: Verdict) -> str:
    """Test accuracies in per cent, mean ± standard deviation over the seeds."""
    lines = [
        f"teacher, test accuracy: {teacher.accuracy:.2%}",
        "",
        f"{'start':<16}{'aggregated, untrained':>24}{'members alone, trained':>25}{'aggregated, trained':>22}",
    ]
    for start in STARTS:
        runs = [outcome for outcome in outcomes if outcome.start == start]
        columns = (
            [each.untrained.accuracy for each in runs],
            [statistics.fmean(member.accuracy for member in each.members) for each in runs],
            [each.aggregated.accuracy for each in runs],
        )
        cells = [f"{100 * statistics.fmean(c):.2f} ± {100 * statistics.pstdev(c):.2f}" for c in columns]
        lines.append(f"{start:<16}{cells[0]:>24}{cells[1]:>25}{cells[2]:>22}")
    return "\n".join(lines)


def main() -> None:
    """Run all, print the table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "examples" / "digits" / "digits.toml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="for each member; the configuration's by default")
    parser.add_argument("--joint-steps", type=int, help="the configuration's by default")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4, 2e-3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    given = parser.parse_args()
    config = read_config(given.config, Overrides())
    changed = {"steps": given.steps, "joint_steps": given.joint_steps}
    options = replace(config.booster, device="cpu", **{k: v for k, v in changed.items() if v is not None})
    with RichProgress() as progress, tempfile.TemporaryDirectory() as folder:
        outcomes = run_all(config, options, given.seeds, given.learning_rates, given.jobs, progress)
        imported = import_teacher(Store(Path(folder), progress), config.model)
        teacher = load_teacher(imported)
        verdict = judge_member(teacher, load_build_data(config, imported, teacher).test, CPU)
    text = table(best_by_validation(outcomes), verdict)
    raw = {
        "config": given.config.name,
        "options": asdict(options),
        "teacher": asdict(verdict),
        "runs": [asdict(outcome) for outcome in outcomes],
        "table": text.splitlines(),
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
