"""Triton's own client and load generator, unchanged, in environments of their own: their pins are not ours."""

import ctypes.util
import fcntl
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import pytest

from coformer_runtime.cluster import LocalCluster
from tests.runtime import bundles
from tests.runtime.interpreters import CACHE
from tests.runtime.nodes import EVERYONE

pytestmark = pytest.mark.slow
REQUIREMENT = "tritonclient[grpc]==2.73.0"
PERF_ANALYZER = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79")
SCRIPT = Path(__file__).with_name("stock_client.py")
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def stock_python() -> str:
    """The interpreter of an environment with tritonclient; skips where pip cannot get it."""
    home = CACHE.with_name("tritonclient")
    home.mkdir(parents=True, exist_ok=True)
    python, stamp = str(home / "venv" / "bin" / "python"), home / "stamp"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != REQUIREMENT:
            subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
            done = subprocess.run(install, stderr=subprocess.PIPE, env=CLEAN, check=False)
            if done.returncode != 0:
                pytest.skip("pip cannot get {}: {}".format(REQUIREMENT, done.stderr.decode("utf-8", "replace")[-300:]))
            stamp.write_text(REQUIREMENT)
    return python


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


@pytest.fixture(scope="module")
def perf_analyzer() -> Tuple[str, Dict[str, str]]:
    """Triton's perf_analyzer and the environment that it runs in; skips where it cannot be had."""
    if platform.machine() != "x86_64" or ctypes.util.find_library("b64") is None:
        pytest.skip("perf_analyzer is for x86-64 and needs libb64 (Debian: libb64-0d)")
    home = CACHE.with_name("perf_analyzer")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "stamp").exists():
            get = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*get, "--dest", str(home), *PERF_ANALYZER], stderr=subprocess.PIPE, check=False)
            if done.returncode != 0:
                pytest.skip("pip cannot get {}".format(" and ".join(PERF_ANALYZER)))
            for wheel in home.glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(home / "files")
            (home / "stamp").touch()
    program, library = next(home.rglob("bin/perf_analyzer")), next(home.rglob("libcudart.so.12"))
    program.chmod(0o755)
    return str(program), dict(CLEAN, LD_LIBRARY_PATH=str(library.parent))


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
