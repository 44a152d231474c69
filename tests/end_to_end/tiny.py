"""The smallest build that does everything: a random teacher, scikit-learn's digits, three devices, two steps each.

The teacher's weights are random but none is near zero, so that every comparison of numbers compares something.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]

SEARCH = """
[policy]
strategy = "random"
basis = "per-norm"
[search]
iterations = 3
samples = 32
"""
"""A short search, to put into a configuration in place of what it says of its policy."""

TINY = """\
title = "Tiny"
seed = 0

[model]
name = "timm:vit_tiny_patch16_224"
checkpoint = "teacher.safetensors"

[model.options]
img_size = 8
patch_size = 4
embed_dim = 24
depth = 2
num_heads = 3
in_chans = 1
num_classes = 10

[data]
source = "digits"
calibration = 64

[[devices]]
name = "attic"
target = "cpu"
gflops = 12.0
memory_mb = 512

[[devices]]
name = "hall"
target = "raspberry-pi-4b"

[[devices]]
name = "desk"
target = "cpu"
gflops = 10.0

[booster]
steps = 2
joint_steps = 2
batch = 32
learning_rate = 1e-3
checkpoint_every = 1
device = "cpu"
"""
MIXED = TINY.replace(
    'name = "desk"\ntarget = "cpu"\ngflops = 10.0', 'name = "desk"\ntarget = "jetson-nano"\nstandby = true'
)
RTX = MIXED.replace("\nstandby = true", "").replace('target = "jetson-nano"', 'target = "rtx-ada"')
# The example's teacher, since members of the tiny one are too small for int8 to gain anything; cut out, not trained.
LOW = (
    MIXED.replace("seed = 0", 'seed = 0\nprecision = "int8"')
    .replace('target = "jetson-nano"', 'target = "jetson-nano"\nprecision = "float16"')
    .replace("teacher.safetensors", str(ROOT / "examples" / "digits" / "teacher.safetensors"))
    .replace(
        "patch_size = 4\nembed_dim = 24\ndepth = 2\nnum_heads = 3",
        "patch_size = 2\nembed_dim = 96\ndepth = 6\nnum_heads = 6",
    )
    .replace("[booster]", '[policy]\nmethod = "index"\n\n[booster]')
    .replace("steps = 2", "steps = 0")
)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def coformerc(*words: object) -> Outcome:
    """Run the command in this process."""
    from coformer_compiler.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """For a process that finds the packages where this one has them, on one thread, 80 columns wide."""
    path = os.pathsep.join(filter(None, sys.path))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path, "COLUMNS": "80"}


# A test run in the background of a shell ignores interrupts, and its children would inherit that. The child itself
# undoes it: code between fork and exec would run gRPC's fork handlers, which abort now and then.
HEEDING = """\
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("coformer_compiler", run_name="__main__")
"""


def start(*words: object) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    command = [sys.executable, "-c", HEEDING, *map(str, words)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a process."""
    with process:
        out, err = process.communicate(timeout=300)
    return Outcome(process.returncode, out, err)


def write_inputs(folder: Path) -> Path:
    """The teacher's checkpoint and all configurations; returns the path of `tiny.toml`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(teacher_tensors(), folder / "teacher.safetensors")
    (folder / "mixed.toml").write_text(MIXED)
    (folder / "low.toml").write_text(LOW)
    (folder / "rtx.toml").write_text(RTX)
    (folder / "tiny.toml").write_text(TINY)
    return folder / "tiny.toml"


def teacher_tensors(**options: int) -> dict[str, torch.Tensor]:
    """The state dict of a timm model with random weights of size 1/sqrt(fan in)."""
    import torch

    from coformer_compiler.torchvision_operators import ensure_torchvision_operators

    ensure_torchvision_operators()
    import timm

    shape = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "in_chans": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **{**shape, **options})
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=random)
        if "norm" in name:
            tensors[name] = (1.0 if name.endswith("weight") else 0.0) + 0.1 * noise
        else:
            tensors[name] = noise / (tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 5.0)
    return tensors


@functools.cache
def inputs() -> Path:
    """A folder with `write_inputs`, for as long as this process lives."""
    import torch

    torch.set_num_threads(1)  # matrices of this size are slower on more
    folder = Path(tempfile.mkdtemp(prefix="coformer-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_inputs(folder)
    return folder


@functools.cache
def built(name: str = "tiny") -> Path:
    """The output folder of `tiny.toml`, `mixed.toml` and so on, built once; tests that change it take a copy."""
    out = inputs() / name
    outcome = coformerc("build", inputs() / f"{name}.toml", "-o", out)
    assert outcome.code == 0, outcome.err
    return out
