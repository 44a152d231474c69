"""The native aggregation against NumPy, built here with the project's own CMakeLists.txt."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "native"


@pytest.fixture(scope="module")
def kernel() -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler is installed")
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", BUILD], check=True, capture_output=True)
    return BUILD / "coformer-aggregate"


def run_kernel(kernel: Path, *options: object, values: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([kernel, *map(str, options)], input=values, capture_output=True, timeout=60, check=False)


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 9),
    widths=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    outputs=st.integers(1, 16),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_matches_numpy_with_the_pool_on_either_side(
    kernel: Path, batch: int, tokens: int, widths: list[int], outputs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features = [random.standard_normal((batch, tokens, width), dtype=np.float32) for width in widths]
    weight = random.standard_normal((outputs, sum(widths)), dtype=np.float32)
    bias = random.standard_normal(outputs, dtype=np.float32)
    joined = np.concatenate(features, axis=2).astype(np.float64)
    expected = (joined @ weight.T + bias).mean(axis=1)

    values = b"".join(array.tobytes() for array in (*features, weight, bias))
    shape = ["--batch", batch, "--tokens", tokens, "--widths", ",".join(map(str, widths)), "--outputs", outputs]
    for pool in ("after", "before"):
        done = run_kernel(kernel, *shape, "--pool", pool, values=values)
        assert done.returncode == 0, done.stderr
        result = np.frombuffer(done.stdout, dtype=np.float32).reshape(batch, outputs)
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_reads_and_writes_files_of_pooled_features(kernel: Path, tmp_path: Path) -> None:
    source, result = tmp_path / "values.bin", tmp_path / "result.bin"
    source.write_bytes(np.array([1, 2, 10, 1, 1, 1, 0.5], dtype=np.float32).tobytes())
    done = run_kernel(kernel, "--widths", "2,1", "--outputs", 1, "--input", source, "--output", result)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    np.testing.assert_array_equal(np.frombuffer(result.read_bytes(), dtype=np.float32), [13.5])


@pytest.mark.parametrize(
    ("options", "values", "code", "message"),
    [
        (["--outputs", "1"], b"", 2, "--widths is missing"),
        (["--widths", "2"], b"", 2, "--outputs is missing"),
        (["--widths", "2,,3", "--outputs", "1"], b"", 2, "--widths is ''; give a positive whole number"),
        (["--widths", "2", "--outputs", "-1"], b"", 2, "--outputs is '-1'; give a positive whole number"),
        (["--widths", "2", "--outputs", "1", "--pool", "max"], b"", 2, "--pool is 'max'; give 'after' or 'before'"),
        (["--colour", "red"], b"", 2, "unknown option '--colour'"),
        (["--widths"], b"", 2, "no value after '--widths'"),
        (["--widths", "999999999999", "--outputs", "999999999999"], b"", 2, "the weights do not fit into memory"),
        (["--widths", "2", "--outputs", "1"], bytes(4), 1, "the input ends within the features of member 0: 4 of 8"),
        (["--widths", "2", "--outputs", "1"], bytes(12), 1, "the input ends within the weight: 4 of 8 bytes"),
        (["--widths", "1", "--outputs", "1"], bytes(13), 1, "the input goes on after the bias; check --widths"),
        (["--widths", "1", "--outputs", "1", "--input", "/nowhere"], b"", 1, "cannot read '/nowhere'"),
    ],
)
def test_refuses_by_name(kernel: Path, options: list[str], values: bytes, code: int, message: str) -> None:
    done = run_kernel(kernel, *options, values=values)
    assert done.returncode == code
    assert message in done.stderr.decode()
    assert done.stdout == b""
