"""Environments of their own for Triton's client and load generator, unchanged: their pins are not ours."""

import ctypes.util
import fcntl
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, Tuple

from tests.runtime.interpreters import CACHE

REQUIREMENT = "tritonclient[grpc]==2.73.0"
PERF_ANALYZER = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79")
SCRIPT = Path(__file__).with_name("stock_client.py")
CLEAN = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


class NotHere(Exception):
    """What is asked for cannot be had on this machine."""


def stock_interpreter() -> str:
    """Return the interpreter of an environment with tritonclient, made at the first call.

    Raises:
        NotHere: pip cannot get it.
    """
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
                raise NotHere(
                    "pip cannot get {}: {}".format(REQUIREMENT, done.stderr.decode("utf-8", "replace")[-300:])
                )
            stamp.write_text(REQUIREMENT)
    return python


def load_generator() -> Tuple[str, Dict[str, str]]:
    """Return Triton's perf_analyzer and the environment that it runs in.

    Raises:
        NotHere: it is not for this machine, or pip cannot get it.
    """
    if platform.machine() != "x86_64" or ctypes.util.find_library("b64") is None:
        raise NotHere("perf_analyzer is for x86-64 and needs libb64 (Debian: libb64-0d)")
    home = CACHE.with_name("perf_analyzer")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "stamp").exists():
            get = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*get, "--dest", str(home), *PERF_ANALYZER], stderr=subprocess.PIPE, check=False)
            if done.returncode != 0:
                raise NotHere("pip cannot get {}".format(" and ".join(PERF_ANALYZER)))
            for wheel in home.glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(home / "files")
            (home / "stamp").touch()
    program, library = next(home.rglob("bin/perf_analyzer")), next(home.rglob("libcudart.so.12"))
    program.chmod(0o755)
    return str(program), dict(CLEAN, LD_LIBRARY_PATH=str(library.parent))
