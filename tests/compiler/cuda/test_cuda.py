"""Where there is a CUDA device it is used, with autocast, for the whole build.

Each test runs on a stand-in for a device (pretend_cuda.py: torch's own autocast, autograd engine and gradient scaling
above kernels of the CPU, and every mixing of devices an error) and, where there is one, on a real device.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.compiler.booster.small import small_boost, small_members, write_result
from tests.compiler.cuda.boosting import OPTIONS
from tests.end_to_end.tiny import TINY, built, environment, inputs

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

Runner = Callable[..., dict[str, int]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """device.cpp, compiled against the torch that is installed."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler for a stand-in of a CUDA device")
    made = tmp_path_factory.mktemp("cuda") / "device.so"
    torch_dir = Path(torch.__file__).parent
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_dir / 'include'}", f"-L{torch_dir / 'lib'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    command = [compiler, *options, abi, str(HERE / "device.cpp"), "-o", str(made), "-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


STAND_IN, OLDER, REAL = "stand-in", "stand-in without bfloat16", "real"


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """Run a program of this folder on a device; returns what ran there, empty where that cannot be counted."""
    if request.param == REAL:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        prefix: list[str] = []
    else:
        if torch.version.cuda is not None:
            pytest.skip("a stand-in needs a build of torch without CUDA")
        half = ["--no-bfloat16"] if request.param == OLDER else []
        prefix = [str(HERE / "pretend_cuda.py"), *half, str(request.getfixturevalue("library"))]

    def run_program(program: str, *arguments: object) -> dict[str, int]:
        ran = tmp_path / "ran.json"
        extra = {"PRETEND_CUDA_RAN": str(ran), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        done = subprocess.run(
            [sys.executable, *prefix, str(HERE / program), *map(str, arguments)],
            env=environment() | extra, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(ran.read_text()) if ran.exists() else {}

    run_program.half = "float16" if request.param == OLDER else "bfloat16"  # type: ignore[attr-defined]
    return run_program


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.stem}/{name}": tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def losses(folder: Path) -> list[float]:
    history: dict[str, Any] = json.loads((folder / "history.json").read_text())
    return [verdict["loss"] for verdict in history["subsets"].values()]


@pytest.mark.slow
@pytest.mark.parametrize("run", [STAND_IN, OLDER, REAL], indirect=True)
def test_the_booster_trains_on_the_device_with_autocast(run: Runner, tmp_path: Path) -> None:
    ran = run("boosting.py", tmp_path / "work", tmp_path / "cuda")
    write_result(tmp_path / "cpu", small_boost(tmp_path / "work-cpu", replace(OPTIONS, device="cpu")))
    on_cpu, on_cuda = weights(tmp_path / "cpu"), weights(tmp_path / "cuda")
    assert on_cpu.keys() == on_cuda.keys()
    assert all(tensor.dtype == on_cuda[name].dtype for name, tensor in on_cpu.items())
    for n, start in enumerate(small_members()):
        moved = [
            torch.cat([(found[f"{n}/{name}"] - tensor).flatten() for name, tensor in start.state_dict().items()])
            for found in (on_cpu, on_cuda)
        ]
        assert torch.cosine_similarity(*moved, dim=0) > 0.95, "trained the same way, but for half precision"
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), abs=0.03)
    if ran:
        half = run.half  # type: ignore[attr-defined]
        steps = 3 * OPTIONS.steps + OPTIONS.joint_steps
        assert ran[f"addmm {half}"] >= 4 * steps, "linears run in half precision"
        assert ran["native_layer_norm_backward float32"] > 0, "norms do not"
        assert ran["_log_softmax_backward_data float32"] > 0, "nor do losses"
        assert not any(name.startswith(("native_layer_norm", "_log_softmax")) and half in name for name in ran)
        assert ("_amp_foreach_non_finite_check_and_unscale_ float32" in ran) == (half == "float16")


@pytest.mark.slow
@pytest.mark.parametrize("run", [OLDER, REAL], indirect=True)
def test_a_run_that_was_stopped_on_the_device_ends_with_the_same_weights(run: Runner, tmp_path: Path) -> None:
    run("boosting.py", tmp_path / "work", tmp_path / "whole")
    run("boosting.py", tmp_path / "again", tmp_path / "stopped", 15)
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("run", [STAND_IN, REAL], indirect=True)
def test_a_whole_build_runs_on_the_device(run: Runner, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(TINY.replace('device = "cpu"', 'device = "cuda"'))
    (tmp_path / "teacher.safetensors").write_bytes((inputs() / "teacher.safetensors").read_bytes())
    ran = run("building.py", "build", config, "-o", tmp_path / "out")
    run("building.py", "validate", tmp_path / "out")
    cpu = built()
    assert (tmp_path / "out" / "policy.json").read_bytes() == (cpu / "policy.json").read_bytes()
    one, other = (json.loads((out / "report.json").read_text())["accuracy"] for out in (tmp_path / "out", cpu))
    # One of 400 test images may change sides by rounding.
    assert one["aggregated_untrained"] == pytest.approx(other["aggregated_untrained"], abs=0.0026)
    if ran:
        assert ran["_linalg_eigh float64"] > 0, "bases are computed there"


def test_the_stand_in_refuses_what_a_device_refuses(library: Path, tmp_path: Path) -> None:
    program = tmp_path / "mixed.py"
    program.write_text(
        "import torch\n"
        "x, y = torch.ones(2, device='cuda'), torch.ones(2)\n"
        "for wrong in (lambda: x + y, lambda: x.numpy(), lambda: torch.cat([y, x])):\n"
        "    try:\n"
        "        wrong()\n"
        "    except (RuntimeError, TypeError) as error:\n"
        "        print(type(error).__name__)\n"
        "print((x * 2).cpu().numpy(), x[torch.tensor([1])].device)\n"
    )
    command = [sys.executable, str(HERE / "pretend_cuda.py"), str(library), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.stdout == "RuntimeError\nRuntimeError\nRuntimeError\n[2. 2.] cuda:0\n", done.stderr
