"""Whether a fetched bundle works on this board: its golden vectors, run in a process of its own.

A process of its own, because an engine that crashes or eats the memory must not take the pull with it.
"""

import os
import subprocess
import sys
from typing import List

from ..errors import CheckFailed
from ..manifest import Manifest

BUILD_LIMIT_S, VALIDATE_LIMIT_S = 3600, 600


def self_test(bundle_dir: str, manifest: Manifest, engines_dir: str) -> None:
    """Build the plans that the bundle needs here, and run its golden vectors.

    Raises:
        CheckFailed: one of them fails, with what it said last.
    """
    if manifest.engine.kind == "tensorrt":
        _run(["build", bundle_dir, "--cache", engines_dir], BUILD_LIMIT_S)
    _run(["validate", bundle_dir, "--cache", engines_dir], VALIDATE_LIMIT_S)


def _run(words: List[str], limit_s: int) -> None:
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([here] + [each for each in [os.environ.get("PYTHONPATH")] if each])
    command = [sys.executable, "-m", "coformer_runtime"] + words
    where = "self-test `coformer-node {}`".format(words[0])
    mend = "the release is not used; build it for this board, see `coformer-node doctor`"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            env=dict(os.environ, PYTHONPATH=path),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckFailed("it did not end within {} s".format(limit_s), where, mend) from None
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        how = "was killed by signal {}".format(-done.returncode) if done.returncode < 0 else "failed"
        raise CheckFailed("it {}: {}".format(how, lines[-1]), where, mend)
