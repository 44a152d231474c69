"""A graph for TensorRT 8.2 is one for the onnx and the ONNX Runtime of its time, on Python 3.6."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from coformer_passes.runner import legalise
from coformer_targets import load_target
from tests.runtime.interpreters import CACHE, interpreter

pytestmark = [pytest.mark.slow, pytest.mark.interpreters]
SCRIPT = Path(__file__).with_name("check_with_old_onnx.py")
PACKAGES = ("onnx==1.8.1", "onnxruntime==1.10.0", "protobuf==3.19.6", "numpy==1.19.5")
SHAPES = {
    "plain": {},
    "qk_norm": {"qk_norm": True, "shortcut": True},
    "tanh": {"activation": "tanh", "pool": "mean", "channels": 1},
}


@pytest.fixture(scope="module")
def old_python() -> str:
    """A Python 3.6 with onnx 1.8.1 and onnxruntime 1.10.0, made once in build/interpreters."""
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


def _run(command: list[str]) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("shape", SHAPES)
def test_the_old_checker_accepts_it_and_the_old_runtime_computes_the_same(
    old_python: str, transformer: Callable[..., ir.Model], outputs: Callable[..., list[np.ndarray]], tmp_path, shape
) -> None:
    model = transformer(**SHAPES[shape])
    dims = [int(dim) for dim in model.graph.inputs[0].shape]
    pixels = np.random.default_rng(0).integers(0, 256, dims, dtype=np.uint8)
    legal = legalise(model, load_target("jetson-nano"), {"pixels": pixels})
    assert (legal.graph.opset_imports, legal.ir_version) == ({"": 13}, 7)
    ir.save(legal, tmp_path / "member.onnx")
    np.savez(tmp_path / "inputs.npz", pixels=pixels.astype(np.float32))

    files = [str(tmp_path / name) for name in ("member.onnx", "inputs.npz", "outputs.npz")]
    assert _run([old_python, str(SCRIPT), *files]) == "(3, 6) 1.8.1 1.10.0\n"
    expected = outputs(model, pixels=pixels)[0]
    with np.load(tmp_path / "outputs.npz") as found:
        np.testing.assert_allclose(found["features"], expected, atol=1e-5 * float(np.abs(expected).max()), rtol=1e-5)
