"""What scoring a candidate costs: with its loss, against transplanting its members from scratch, and without it.

Run: python benchmarks/search/scoring.py [--candidates 5] [--work build/search-benchmark]. Writes
benchmarks/results/search_scoring.json. One thread; a quarter of an hour or more on a quiet core, mostly `from scratch`.

- digits: seconds a candidate of the digits teacher, as a search scores it (256 calibration images).
- deit-small: the same for DeiT-S's shape, 224 × 224 images, 64 to calibrate on and 64 to judge by.
- from scratch: what the same score costs where nothing is shared between candidates and members: for every member a
  calibration run of the teacher (statistics), a transplant of its own with a build's penalties, and a forward pass. The
  ratio is of the same candidates in the same run.
- candidates a second: for costs, constraints and latency alone, from points of the search (to be reached: 10,000), and
  from shapes that were decoded before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from setups import ROOT, Setup, deit_small, digits

from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.search.space import Shapes
from coformer_compiler.decomposer.shapes import kept_of
from coformer_compiler.evaluator.many import Candidates
from coformer_compiler.evaluator.recipe import evaluator_of
from coformer_compiler.evaluator.score import Evaluator
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

RESULT = ROOT / "benchmarks" / "results" / "search_scoring.json"
MANY, REPEATS = 5_000, 3


def timed(call: Callable[[], object]) -> float:
    """Processor seconds, which other processes of this machine hardly change."""
    began = time.process_time()
    call()
    return time.process_time() - began


def drawn(setup: Setup, count: int) -> list[Shapes]:
    """Random policies in which every device takes part: those cost the most."""
    space, random, found = setup.space, np.random.default_rng(0), []
    while len(found) < count:
        shapes = space.drawn(random)[1]
        found += [] if None in shapes else [shapes]
    return found


@torch.no_grad()
def from_scratch(setup: Setup, evaluator: Evaluator, shapes: Shapes) -> None:
    """The members of one candidate, one by one, sharing nothing."""
    inputs, head = torch.from_numpy(setup.calibration.inputs), setup.teacher.head
    devices, kept = kept_of(setup.devices, shapes)
    members, priors = [], []
    for n in range(len(kept)):
        statistics = statistics_from_batches(setup.teacher, batches_of(setup.calibration, batch=evaluator.batch))
        policies = members_from_shapes([d.name for d in devices], kept, evaluator.scores, None)
        made = transplant(setup.teacher, statistics, policies[n : n + 1], inputs, basis="per-norm")
        members += made.members
        priors += made.priors
    lessons = [(part, setup.teacher.features(part)) for part in inputs.split(evaluator.batch)]
    aggregator = fit_readouts(members, head, lessons, priors)
    for part in torch.from_numpy(setup.validation.inputs).split(evaluator.batch):
        aggregator({n: member.features(part) for n, member in enumerate(members)})


def candidates_a_second(setup: Setup) -> dict[str, float]:
    """Costs, C5, C6, deadlines and latencies of many candidates, decoded or not; the best of a few passes."""
    space, random = setup.space, np.random.default_rng(1)
    points = random.random((MANY, space.encoding.dimensions))
    everyone = (MANY, len(setup.devices))
    shrink, deepest = np.ones(everyone), np.full(everyone, space.encoding.shape.layers)

    def decoded() -> Candidates:
        return space.encoding.decode_many(points, shrink, deepest)

    def look(candidates: Candidates) -> None:
        space.fit_by(candidates)
        space.latencies_by(candidates)

    candidates = decoded()
    look(candidates)
    return {
        "decoded before": round(MANY / min(timed(lambda: look(candidates)) for _ in range(REPEATS))),
        "decoding included": round(MANY / min(timed(lambda: look(decoded())) for _ in range(REPEATS))),
    }


def figures(setup: Setup, work: Path, candidates: int) -> dict[str, Any]:
    """One setup."""
    evaluator = evaluator_of(setup.recipe(work))
    policies = drawn(setup, candidates)
    evaluator.score(policies[0])
    quick = [timed(lambda s=shapes: evaluator.score(s)) for shapes in policies]
    found: dict[str, Any] = {"candidates": candidates, "seconds": quick, "median_s": float(np.median(quick))}
    slow = [timed(lambda s=shapes: from_scratch(setup, evaluator, s)) for shapes in policies]
    found |= {"from_scratch_s": slow, "ratio": float(np.median(np.divide(slow, quick)))}
    return found | {"candidates_a_second": candidates_a_second(setup)}


def main() -> None:
    """Both setups, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="edge of DeiT-S's images, pixels")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "search-benchmark")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "digits": figures(digits(), options.work, options.candidates),
        "deit-small": figures(deit_small(options.size, 64, 64), options.work, options.candidates),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
