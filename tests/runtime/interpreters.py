"""Other Python interpreters of this machine, each with the runtime installed in a cached virtual environment."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Sequence

VERSIONS = ("3.6", "3.8", "3.10", "3.12", "3.13")
ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime"
CACHE = ROOT / "build" / "interpreters"
_NEW = ("pytest==9.2.0", "pytest-timeout==2.4.0", "hypothesis==6.170.15", "onnx==1.23.2")
TEST_PACKAGES = {
    "3.6": ("pytest==7.0.1", "pytest-timeout==2.1.0", "hypothesis==6.31.6", "onnx==1.11.0"),
    "3.8": ("pytest==8.3.5", "pytest-timeout==2.4.0", "hypothesis==6.113.0", "onnx==1.17.0"),
    "3.10": ("pytest==9.2.0", "pytest-timeout==2.4.0", "hypothesis==6.168.5", "onnx==1.23.2"),
    "3.12": _NEW,
    "3.13": _NEW,
}
"""What the runtime's tests import: the newest of each that a Python takes."""


def interpreter(version: str) -> Optional[str]:
    """Return the path of a Python of this version, from pyenv or PATH, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
    candidates = [str(path) for path in sorted(pyenv.glob(version + ".*/bin/python"))]
    on_path = shutil.which("python" + version)
    for candidate in candidates + ([on_path] if on_path else []):
        code = "import sys; print('{}.{}'.format(*sys.version_info))"
        done = subprocess.run([candidate, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and done.stdout.decode().strip() == version:
            return candidate
    return None


def environment(version: str, base: str, packages: Sequence[str] = ()) -> str:
    """Return the Python of a virtual environment with the runtime as it is now; makes or mends it if needed.

    Args:
        version: such as "3.6".
        base: a Python of that version.
        packages: what is installed beside the runtime, pinned; environments with and without are two.
    """
    home = CACHE / ("python" + version + ("-tests" if packages else ""))
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, wanted = home / "stamp", _digest(version, base, packages)
        python = str(home / "venv" / "bin" / "python")
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            _install(home, python, version, base, packages)
            stamp.write_text(wanted)
    return python


def _digest(version: str, base: str, packages: Sequence[str]) -> str:
    files = [RUNTIME / "setup.cfg", RUNTIME / "pyproject.toml", _constraints(version)]
    files += sorted((RUNTIME / "coformer_runtime").rglob("*.py"))
    digest = hashlib.sha256("\0".join([base, *packages]).encode())
    for path in files:
        digest.update(str(path.relative_to(RUNTIME)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _constraints(version: str) -> Path:
    return RUNTIME / "constraints" / "python{}.txt".format(version)


def _install(home: Path, python: str, version: str, base: str, packages: Sequence[str]) -> None:
    if not Path(python).exists():
        _run([base, "-m", "venv", str(home / "venv")])
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    pins = ["--constraint", str(_constraints(version))]
    if version == "3.6":  # its own pip sees no manylinux2014 wheels, its own setuptools no setup.cfg of this kind
        _run([*pip, "install", *pins, "pip"])
        _run([*pip, "install", *pins, "setuptools", "wheel"])
    sources = home / "source"
    shutil.rmtree(str(sources), ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(str(RUNTIME), str(sources), ignore=leave)  # building writes beside the sources
    _run([*pip, "uninstall", "--yes", "coformer-runtime"])
    _run([*pip, "install", *pins, str(sources) + "[onnxruntime,signing]", *packages])


def _run(command: List[str]) -> None:
    clean: Dict[str, str] = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean, check=False)
    assert done.returncode == 0, "{}\n{}".format(" ".join(command), done.stdout.decode("utf-8", "replace"))
