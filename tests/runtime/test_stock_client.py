"""Triton's own client and load generator, unchanged, in environments of their own: their pins are not ours."""

import json
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import pytest

from coformer_runtime.cluster import LocalCluster
from tests.runtime import bundles
from tests.runtime.nodes import EVERYONE
from tests.runtime.stock import CLEAN, SCRIPT, NotHere, load_generator, stock_interpreter

pytestmark = pytest.mark.slow
LOADS = (1, 4, 16)


@pytest.fixture(scope="module")
def stock_python() -> str:
    """The interpreter of an environment with tritonclient; skips where pip cannot get it."""
    try:
        return stock_interpreter()
    except NotHere as error:
        pytest.skip(str(error))


def test_tritonclient(stock_python: str, cluster_dirs: List[str]) -> None:
    with LocalCluster(cluster_dirs, deadline_ms=5000) as cluster:
        done = subprocess.run([stock_python, str(SCRIPT), cluster.address], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=CLEAN, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout.decode())
    assert seen["live"] and seen["ready"] and seen["server"] == "coformer-node"
    assert seen["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": ["1", "1", "4", "4"]}]
    assert seen["config"] == ["coformer", "TYPE_UINT8", "TYPE_FP32"]
    assert (seen["id"], seen["members"]) == ("7", "attic,hall,desk")
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(seen["logits"], bundles.answer_of(EVERYONE, pixels), rtol=1e-4, atol=1e-4)
    assert seen["same"] >= 32 and seen["same"] + seen["busy"] == 200
    assert "the shape is [1, 1, 4, 5]; send [1, 1, 4, 4]" in seen["refused"]


@pytest.mark.parametrize("concurrency", LOADS)
def test_load_by_tritonclient(stock_python: str, concurrency: int, cluster_dirs: List[str]) -> None:
    """So many clients at a time, each with inputs of its own: every answer is there, and its own."""
    with LocalCluster(cluster_dirs, deadline_ms=5000) as cluster:
        words = [stock_python, str(SCRIPT), cluster.address, "--load", str(concurrency), "--requests", "300"]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN, check=False)
        assert done.returncode == 0, done.stderr.decode()
        seen = json.loads(done.stdout.decode())
        assert seen["errors"] == 0, seen["first_errors"]
        assert (seen["answered"], seen["concurrency"], len(seen["sample"])) == (300, concurrency, concurrency)
        for pixels, logits in seen["sample"]:
            array = np.array(pixels, np.uint8).reshape(bundles.PIXELS)
            np.testing.assert_allclose(logits, bundles.answer_of(EVERYONE, array), rtol=1e-4, atol=1e-4)
    assert (
        seen["per_s"] > 0
        and seen["slowest_engine_ms"] > 0
        and 0 < seen["latency_ms"]["p50"] <= seen["latency_ms"]["p99"]
    )


@pytest.fixture(scope="module")
def perf_analyzer() -> Tuple[str, Dict[str, str]]:
    """Triton's perf_analyzer and the environment that it runs in; skips where it cannot be had."""
    try:
        return load_generator()
    except NotHere as error:
        pytest.skip(str(error))


def test_perf_analyzer(perf_analyzer: Tuple[str, Dict[str, str]], cluster_dirs: List[str], tmp_path: Path) -> None:
    program, environment = perf_analyzer
    table = tmp_path / "table.csv"
    with LocalCluster(cluster_dirs, deadline_ms=5000) as cluster:
        words = [program, "-m", "coformer", "-u", cluster.address, "-i", "grpc", "--concurrency-range", "1:16:15"]
        words += ["--measurement-interval", "1000", "--stability-percentage", "999", "-f", str(table)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False)
    assert done.returncode == 0, done.stdout.decode()
    rows = [line.split(",")[:2] for line in table.read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "16"] and all(float(row[1]) > 0 for row in rows)
