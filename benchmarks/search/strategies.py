"""All strategies on the digits teacher or a model of DeiT-S's shape, several seeds, one run.

Run: python benchmarks/search/strategies.py digits [--seeds 5] [--jobs 2] [--work build/search-benchmark]. Writes
benchmarks/results/search_SETUP.json. On two quiet cores about 10 minutes for `digits` and 50 for `deit-small`, whatever
is interrupted goes on. `random` gets 200 evaluations, the others 60; all begin with `uniform` and
`proportional`. Every policy is judged by the
same objective, the aggregated untrained loss plus δ·T: `debo-paper` searches by eq. (7), and its objective here is that
of the policy that eq. (7) likes best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from joblib import Parallel, delayed
from setups import DELTA, ROOT, SETUPS, Setup

from coformer_compiler.decomposer.search.journal import Entry, Origin
from coformer_compiler.decomposer.search.search import SearchOptions, search
from coformer_compiler.evaluator.recipe import score_many
from coformer_compiler.evaluator.score import Loss
from coformer_compiler.progress import SilentProgress

BUDGETS = {"random": 200, "debo": 60, "debo-paper": 60, "optuna-gp": 60}
INITIAL, STARTS = 8, 2


def entries_of(setup: Setup, strategy: str, seed: int, work: Path) -> list[Entry]:
    """One search, in one thread; what its journal in the work folder has already is not scored again."""
    loss: Loss = "members" if strategy == "debo-paper" else "aggregated"
    recipe = setup.recipe(work / f"recipe-{strategy}-{seed}", loss)
    return search(
        setup.space,
        lambda shapes: score_many(recipe, shapes, 1),
        setup.delta_per_ms,
        setup.starts(),
        SearchOptions(BUDGETS[strategy] - STARTS, INITIAL, strategy, seed),
        work / f"{setup.name}-{strategy}-{seed}.jsonl",
        Origin(setup.name, recipe.digest, repr([d.name for d in setup.devices]), loss),
        SilentProgress(),
    )


def best_so_far(setup: Setup, strategy: str, entries: Sequence[Entry]) -> list[float]:
    """The common objective of the policy that the strategy likes best after each evaluation."""
    curve, liked, objective = [], float("inf"), float("inf")
    for entry in entries:
        if entry.score.objective < liked:
            liked = entry.score.objective
            objective = entry.score.loss + setup.delta_per_ms * entry.score.latency.total_ms
        curve.append(round(objective, 6))
    return curve


def summary(curves: dict[str, list[list[float]]]) -> dict[str, object]:
    """Against the goals: how soon `debo` is where `random` ends, and medians."""
    rows: dict[str, object] = {
        f"median final, {name}": round(statistics.median(curve[-1] for curve in found), 5)
        for name, found in curves.items()
    }
    if "debo" in curves and "random" in curves:
        pairs = list(zip(curves["debo"], curves["random"], strict=False))
        reached = [next((n + 1 for n, y in enumerate(d) if y <= r[-1]), None) for d, r in pairs]
        rows["evaluations until debo is where random ends"] = reached
        rows["reached within 60"] = f"{sum(n is not None for n in reached)} of {len(reached)}"
        rows["never worse than uniform"] = all(d[-1] <= d[0] for d in curves["debo"])
    if "debo" in curves and "debo-paper" in curves:
        ends = [statistics.median(curve[-1] for curve in curves[name]) for name in ("debo", "debo-paper")]
        rows["median of debo better than debo-paper"] = ends[0] < ends[1]
    return rows


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--strategies", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "search-benchmark")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    setup = SETUPS[options.setup]()
    seeds = range(1, options.seeds + 1)
    pairs = [(strategy, seed) for seed in seeds for strategy in options.strategies]
    every = Parallel(n_jobs=options.jobs, verbose=10)(
        delayed(entries_of)(setup, strategy, seed, options.work) for strategy, seed in pairs
    )
    curves: dict[str, list[list[float]]] = {strategy: [] for strategy in options.strategies}
    for (strategy, _), entries in zip(pairs, every, strict=True):
        curves[strategy].append(best_so_far(setup, strategy, entries))
    starts = [round(e.score.loss + setup.delta_per_ms * e.score.latency.total_ms, 6) for e in every[0][:STARTS]]
    found = summary(curves)
    print(json.dumps({"uniform": starts[0], "proportional": starts[1], **found}, indent=1))
    result = {
        "setup": setup.name,
        "delta": DELTA,
        "devices": [device.name for device in setup.devices],
        "seeds": options.seeds,
        "uniform": starts[0],
        "proportional": starts[1],
        "summary": found,
        "best so far by evaluation": curves,
    }
    path = ROOT / "benchmarks" / "results" / f"search_{setup.name.replace('-', '_')}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
