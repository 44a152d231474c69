"""Two processes compute what one computes.

What differs is the order in which the gradients of a batch are added: each process sums its half, then the halves meet.
Float32 addition is not associative, and AdamW passes the last bits on: hence 1e-5 of the largest weight, not equality.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coformer_compiler.booster import BoosterOptions
from coformer_compiler.booster.batches import batch_of_step
from coformer_compiler.booster.boost import CHECKPOINT
from coformer_compiler.booster.ranks import Ranks
from coformer_compiler.booster.teacher import lessons_from_teacher
from coformer_compiler.booster.weights import equal_weights
from coformer_compiler.progress import SilentProgress
from tests.compiler.booster.small import small_boost, small_split, small_teacher, write_result

OPTIONS = BoosterOptions(
    steps=30,
    batch=33,
    learning_rate=5e-3,
    joint_steps=20,
    checkpoint_every=5,
    weighting="samme-r",
    augmentation="shift",
    device="cpu",
)
ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def test_the_parts_of_a_batch_make_up_the_whole(tmp_path: Path) -> None:
    alone = Ranks(0, 1, CPU)
    lessons = lessons_from_teacher(
        small_teacher(), small_split(96, 1), OPTIONS, "0" * 16, tmp_path, alone, SilentProgress()
    )
    whole, *parts = (
        batch_of_step(lessons, equal_weights(96), OPTIONS, 1, 2, ranks)
        for ranks in (alone, Ranks(0, 2, CPU), Ranks(1, 2, CPU))
    )
    assert [len(part.inputs) for part in parts] == [17, 16]
    for rank, part in enumerate(parts):
        assert torch.equal(part.inputs, whole.inputs[rank::2])
        assert torch.equal(part.targets.labels, whole.targets.labels[rank::2])
        assert torch.equal(part.targets.teacher, whole.targets.teacher[rank::2])
        assert torch.equal(part.weights, whole.weights[rank::2])


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.slow
def test_two_processes_end_where_one_ends(tmp_path: Path) -> None:
    write_result(tmp_path / "one" / "0", small_boost(tmp_path / "one-work", OPTIONS))
    arguments = [str(tmp_path / "two-work"), str(tmp_path / "two"), json.dumps(asdict(OPTIONS))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.compiler.booster.small", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for n in range(3):
        one, first, second = (
            load_file(tmp_path / folder / f"{n}.safetensors") for folder in ("one/0", "two/0", "two/1")
        )
        for name, tensor in one.items():
            assert torch.equal(first[name], second[name]), name
            assert near(first[name], tensor), name
    texts = [json.loads((tmp_path / f"{folder}/aggregator.json").read_text()) for folder in ("one/0", "two/0")]
    for name in texts[0]:
        assert near(torch.tensor(texts[0][name]), torch.tensor(texts[1][name])), name
    assert sorted(path.name for path in (tmp_path / "two-work").glob("*.safetensors")) == [CHECKPOINT]
