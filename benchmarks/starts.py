"""What are the members worth by where their weights start: transplanted, by index selection, at random?

Usage: python benchmarks/starts.py [--config examples/digits/digits.toml] [--seeds 5] [--steps N] [--joint-steps N]

Members of equal shapes are boosted with the same steps from each start, for several seeds (calibration samples, order
of training samples, random weights). Prints a table with mean and standard deviation over the seeds on the test split
and writes every run to benchmarks/results/starts.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("passes", "targets", "runtime"))]

import torch  # noqa: E402
from torch import nn  # noqa: E402

from coformer_compiler.artifact import Store  # noqa: E402
from coformer_compiler.booster import BoosterOptions, boost  # noqa: E402
from coformer_compiler.booster.history import Verdict  # noqa: E402
from coformer_compiler.booster.judge import judge_all, judge_member  # noqa: E402
from coformer_compiler.compile import load_build_data  # noqa: E402
from coformer_compiler.config import BuildConfig, Overrides, read_config  # noqa: E402
from coformer_compiler.data import DataSet  # noqa: E402
from coformer_compiler.model.system import load_system  # noqa: E402
from coformer_compiler.model.transformer import Transformer  # noqa: E402
from coformer_compiler.progress import Progress, RichProgress  # noqa: E402
from coformer_compiler.stages.calibrate import calibrate  # noqa: E402
from coformer_compiler.stages.decompose import decompose_teacher, policy_of  # noqa: E402
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher  # noqa: E402
from coformer_compiler.stages.transplant import transplant_members  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "starts.json"
CPU = torch.device("cpu")

Start = Literal["transplanted", "index-selected", "random"]
STARTS: tuple[Start, ...] = ("transplanted", "index-selected", "random")


@dataclass(frozen=True)
class Outcome:
    """One run: test verdicts of the full set and of the members alone, before and after training."""

    start: Start
    seed: int
    untrained: Verdict
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
    policy = decompose_teacher(store, calibrated, teacher.spec, config.devices, section)
    parents = (imported, calibrated, policy)
    made = transplant_members(store, parents, teacher, policy_of(policy), data, section)
    members = list(load_system(made.path).members)
    return teacher, [_fresh(member) for member in members] if start == "random" else members


def _fresh(member: Transformer) -> Transformer:
    """Random weights in the same shape, with the input normalisation kept; tokens and positions as timm draws them."""
    made = Transformer(member.spec)
    made.stem.mean.copy_(member.stem.mean)
    made.stem.std.copy_(member.stem.std)
    for tokens in (made.stem.positions, made.stem.prefix):
        nn.init.normal_(tokens, std=0.02)
    return made


def run(start: Start, seed: int, config: BuildConfig, options: BoosterOptions, progress: Progress) -> Outcome:
    """Boost from one start with one seed."""
    torch.manual_seed(seed)
    config, options = replace(config, seed=seed), replace(options, seed=seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cache", progress)
        data = load_build_data(config, load_teacher(import_teacher(store, config.model)))
        teacher, members = members_from(start, config, data, store)
        untrained, trained = (
            boost(teacher, members, data.train, data.validation, each, Path(folder) / name, progress)
            for name, each in (("untrained", replace(options, steps=0, joint_steps=0)), ("trained", options))
        )
    before = judge_all(untrained.members, untrained.aggregator, data.test, CPU)[1]
    alone, together = judge_all(trained.members, trained.aggregator, data.test, CPU)
    everyone = next(iter(together))
    joint = trained.history.joint
    params = tuple(member.cost().params for member in members)
    return Outcome(start, seed, before[everyone], together[everyone], alone, joint.kept if joint else None, params,
                   round(time.monotonic() - began, 1))  # fmt: skip


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
    given = parser.parse_args()
    config = read_config(given.config, Overrides())
    changed = {"steps": given.steps, "joint_steps": given.joint_steps}
    options = replace(config.booster, device="cpu", **{k: v for k, v in changed.items() if v is not None})
    outcomes: list[Outcome] = []
    with RichProgress() as progress, tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for start in STARTS:
                outcomes.append(run(start, seed, config, options, progress))
                progress.note(f"{start}, seed {seed}: aggregated {outcomes[-1].aggregated.accuracy:.2%}")
        teacher = load_teacher(import_teacher(Store(Path(folder), progress), config.model))
        verdict = judge_member(teacher, load_build_data(config, teacher).test, CPU)
    text = table(outcomes, verdict)
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
