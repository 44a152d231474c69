"""The modules that touch TensorRT, checked by mypy against the stubs of one version (tensorrt-stubs on PyPI).

In the modules the library is a parameter, `trt: Any`, so that tensorrt_rtx may take its place. In the copies that are
checked here the name is the module of the stubs. What they say is missing must be what api.py says that this version
has not. The published stubs are no valid Python in a few places, which are mended first; for that reason they are not
installed beside mypy, which would stop at them.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import List

import pytest

from coformer_runtime.tensorrt.api import API, Version, version_of
from tests.runtime.test_tensorrt_api import PACKAGE, TOUCHING

STUBS = Path(__file__).parents[2] / "build" / "tensorrt-stubs"
MENDS = (
    (r"\bin: ", "inputs: "),  # a keyword as the name of a parameter
    (r"(power: Weights = None, channel_axis: int)\)", r"\1 = 0)"),  # no default after one with a default
)


def mended_stubs(directory: Path) -> Version:
    """Copy the stubs, mended, and return the version that they are of."""
    found = sorted(STUBS.glob("tensorrt_stubs-*.dist-info"))
    if not found or find_spec("mypy") is None:
        pytest.skip(
            "no mypy, or no stubs: unzip the wheel of 'pip download --no-deps tensorrt-stubs' into {}".format(STUBS)
        )
    shutil.copytree(str(STUBS), str(directory))
    path = directory / "tensorrt_bindings" / "tensorrt.pyi"
    text = path.read_text()
    for pattern, mended in MENDS:
        text = re.sub(pattern, mended, text)
    path.write_text(text)
    return version_of(found[0].name.split("-")[1])


def copied_modules(directory: Path) -> List[str]:
    """Copy the runtime; in the modules that touch the library, give the name `trt` its type."""
    shutil.copytree(str(PACKAGE), str(directory / PACKAGE.name), ignore=shutil.ignore_patterns("__pycache__"))
    copies = [directory / PACKAGE.name / path.relative_to(PACKAGE) for path in TOUCHING]
    for path in copies:
        text = re.sub(r"\btrt: Any\b", "_trt: Any", path.read_text())
        path.write_text(text.replace("\nfrom ", "\nimport tensorrt as trt\nfrom ", 1))
    return [str(path) for path in copies]


def complaints(directory: Path, files: List[str]) -> List[str]:
    words = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--no-warn-unused-ignores"]
    words += ["--cache-dir", str(directory / "cache"), *files]
    (directory / "mypy.ini").write_text(
        "[mypy]\nmypy_path = {0}/stubs:{0}/copy\n"
        "[mypy-pycuda.*,grpc.*,google.*,onnxruntime.*,tensorrt_rtx.*]\nignore_missing_imports = True\n".format(
            directory
        )
    )
    done = subprocess.run(words, stdout=subprocess.PIPE, cwd=str(directory), check=False)
    lines = done.stdout.decode().splitlines()
    assert "errors prevented further checking" not in lines[-1], lines[-1]
    return [line for line in lines if ": error: " in line and "/stubs/" not in line and "\nstubs/" not in "\n" + line]


@pytest.mark.slow
def test_only_what_the_version_lacks_is_complained_about(tmp_path: Path) -> None:
    version = mended_stubs(tmp_path / "stubs")
    files = copied_modules(tmp_path / "copy")
    for line in complaints(tmp_path, files):
        missing = re.search(r'"(?:type\[)?(\w+)\]?" has no attribute "(\w+)"', line)
        assert missing is not None, line
        path = ".".join(missing.groups())
        assert path in API and not API[path].covers(version), line


@pytest.mark.slow
def test_a_wrong_call_is_complained_about(tmp_path: Path) -> None:
    """Else the test above would hold for code that is not looked at."""
    mended_stubs(tmp_path / "stubs")
    files = copied_modules(tmp_path / "copy")
    plan = Path(next(path for path in files if path.endswith("plan.py")))
    text = plan.read_text()
    for right, wrong in (
        ("config.clear_flag(trt.BuilderFlag.TF32)", "config.clear_flag(trt.MemoryPoolType.WORKSPACE)"),
        ("cache.serialize()", "cache.serialise()"),
        ("builder.build_serialized_network(network, config)", "builder.build_serialized_network(config, network)"),
    ):
        assert right in text
        text = text.replace(right, wrong)
    plan.write_text(text)
    found = complaints(tmp_path, files)
    assert len([line for line in found if "[arg-type]" in line]) == 3
    assert any('"ITimingCache" has no attribute "serialise"' in line for line in found)
