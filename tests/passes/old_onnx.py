"""onnx 1.8.1 and ONNX Runtime 1.10.0 under Python 3.6: what a Jetson Nano's time had."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.interpreters import CACHE, interpreter

SCRIPT = Path(__file__).with_name("check_with_old_onnx.py")
PACKAGES = ("onnx==1.8.1", "onnxruntime==1.10.0", "protobuf==3.19.6", "numpy==1.19.5")


def old_python() -> str:
    """A Python 3.6 with these packages, made once in build/interpreters; skips the test where there is none."""
    base = interpreter("3.6")
    if base is None:
        pytest.skip("no Python 3.6 on this machine, neither under pyenv nor on PATH")
    home = CACHE / "onnx-1.8.1"
    home.mkdir(parents=True, exist_ok=True)
    python, stamp = home / "venv" / "bin" / "python", home / "stamp"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
            _run([base, "-m", "venv", "--clear", str(home / "venv")])
            _run([str(python), "-m", "pip", "install", "--quiet", "pip==21.3.1"])
            _run([str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *PACKAGES])
            stamp.write_text(" ".join(PACKAGES))
    return str(python)


def old_outputs(graph: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The old checker accepts the graph; returns what the old runtime computes."""
    python, folder = old_python(), graph.parent
    np.savez(folder / "inputs.npz", **inputs)
    files = [str(graph), str(folder / "inputs.npz"), str(folder / "outputs.npz")]
    assert _run([python, str(SCRIPT), *files]) == "(3, 6) 1.8.1 1.10.0\n"
    with np.load(folder / "outputs.npz") as found:
        return dict(found)


def _run(command: list[str]) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
