"""Triton's own client, unchanged, in an environment of its own: its protobuf pin is not ours."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import numpy as np
import pytest

from coformer_runtime.cluster import LocalCluster
from tests.runtime import bundles
from tests.runtime.interpreters import CACHE
from tests.runtime.nodes import EVERYONE

pytestmark = pytest.mark.slow
REQUIREMENT = "tritonclient[grpc]==2.73.0"
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
