"""What holds for the repository as a whole: all modules import, layers hold, no file names the machine it is from."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import coformer_compiler
import coformer_runtime

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "coformer_compiler": ROOT,
    "coformer_passes": ROOT / "passes",
    "coformer_targets": ROOT / "targets",
    "coformer_runtime": ROOT / "runtime",
}


UNPINNED = {"tensorrt", "pycuda"}
"""Not tried so far: the version has to be that of the driver and of the CUDA libraries of the machine."""


def modules_of(package: str) -> list[str]:
    directory = PACKAGES[package]
    paths = sorted((directory / package).rglob("*.py"))
    names = [".".join(path.relative_to(directory).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def errors_of(code: str, *arguments: str) -> str:
    """What a Python program writes to standard error, warnings being errors; empty where it ended well."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return done.stderr or f"exit status {done.returncode}" if done.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports(package: str) -> None:
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    assert not errors_of(code, *modules_of(package))


def test_runtime_imports_where_only_its_own_dependencies_are() -> None:
    code = """
import importlib, sys
for name in ("torch", "timm", "onnx", "onnx_ir", "onnxruntime", "tensorrt", "pydantic", "rich", "PIL", "sklearn"):
    sys.modules[name] = None
for name in ("coformer_compiler", "coformer_passes", "coformer_targets"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    assert not errors_of(code, *modules_of("coformer_runtime"))


def test_import_of_the_compiler_is_light() -> None:
    code = """
import sys, coformer_compiler
heavy = {"torch", "timm", "onnx", "onnxruntime", "transformers", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    assert not errors_of(code)


def test_layers() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("import-linter is not installed beside this Python")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_every_python_file_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix == ".py" and not (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").strip()
    ]
    assert silent == []


def test_no_tracked_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    # Written so that this file does not match itself.
    places = "|".join(re.escape(f"{directory}/") for directory in ("/root", "/work", "/home", "/Users", "/tmp/lab"))
    path = re.compile(rf"(?<![\w.~/-])(?:{places})".replace("/", "[/]").encode())
    named = [str(file.relative_to(ROOT)) for file in tracked_files() if path.search(file.read_bytes())]
    assert named == []


def test_no_tracked_file_is_a_build_product() -> None:
    products = {".egg-info", ".pyc", ".so", ".plan", ".engine", ".pkl", ".pickle"}
    assert [path.name for path in tracked_files() if path.suffix in products] == []


def python_3_6() -> str | None:
    """Returns a Python 3.6 that runs: on PATH, or among those of pyenv."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in ("python3.6", *sorted(map(str, versions.glob("3.6.*/bin/python")))):
        if shutil.which(candidate) is None:
            continue
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and "3.6" in done.stdout:
            return candidate
    return None


@pytest.mark.interpreters
def test_runtime_compiles_with_python_3_6() -> None:
    python = python_3_6()
    if python is None:
        pytest.skip("there is no Python 3.6 on this machine")
    code = """
import sys
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        compile(file.read(), path, "exec")
"""
    files = [str(path) for path in (ROOT / "runtime" / "coformer_runtime").rglob("*.py")]
    done = subprocess.run([python, "-c", code, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == coformer_compiler.__version__
    assert f"coformer-runtime=={coformer_runtime.__version__}" in project["dependencies"]


def test_every_dependency_is_pinned_and_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {re.split(r"[\s<>=!;\[]", line)[0] for line in wanted} - {"coformer-runtime"}
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    explained = set(re.findall(r"[\w-]+", (ROOT / "docs" / "dependencies.md").read_text("utf-8")))
    assert names - pinned == UNPINNED
    assert names - explained == set()


def test_installed_as_declared() -> None:
    declared = requires("coformer-compiler") or []
    assert any(line.startswith("coformer-runtime") for line in declared)
    assert any(line.startswith("torch>=") for line in declared)


@pytest.mark.parametrize("candidate", ["/nowhere/python3", None], ids=["named", "none"])
def test_make_says_that_a_newer_python_is_needed(tmp_path: Path, candidate: str | None) -> None:
    make, bash = shutil.which("make"), Path("/bin/bash")
    if make is None or not bash.exists():
        pytest.skip("there is no make or bash")
    environment = tmp_path / "venv"
    command = [make, "-C", str(ROOT), f"VENV={environment}", f"PYTHON={candidate or ''}", f"{environment}/bin/python"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    if candidate is None:
        assert "make: no Python 3.10 or later on PATH; install one, or name it: make PYTHON=" in done.stderr
    else:
        assert f"make: {candidate} is older than Python 3.10 or does not run; name another" in done.stderr
    assert not environment.exists()


def test_example_teacher_is_small_and_complete() -> None:
    content = (ROOT / "examples" / "digits" / "teacher.safetensors").read_bytes()
    assert len(content) <= 3_000_000
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}
    assert header["patch_embed.proj.weight"]["shape"] == [96, 1, 2, 2]
    assert header["head.weight"]["shape"] == [10, 96]
    assert len([name for name in header if name.endswith("attn.qkv.weight")]) == 6


@pytest.mark.slow
def test_example_teacher_is_as_good_as_documented() -> None:
    code = """
import sys
sys.path.insert(0, "examples/digits")
from train_teacher import NAME, OPTIONS, accuracy
from coformer_compiler.data import load_data
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
ensure_torchvision_operators()
import timm
from safetensors.torch import load_file
model = timm.create_model(NAME, **OPTIONS)
model.load_state_dict(load_file("examples/digits/teacher.safetensors"))
data = load_data("digits", image_size=8, channels=1)
assert accuracy(model, data.validation) >= 0.995, accuracy(model, data.validation)
assert accuracy(model, data.test) >= 0.985, accuracy(model, data.test)
"""
    assert not errors_of(code)


@pytest.mark.slow
def test_the_script_that_trained_the_example_runs(tmp_path: Path) -> None:
    made = tmp_path / "teacher.safetensors"
    assert not errors_of(f"""
import runpy, sys
sys.argv = ["train_teacher.py", "--epochs", "1", "--output", {str(made)!r}]
runpy.run_path("examples/digits/train_teacher.py", run_name="__main__")
""")
    assert made.stat().st_size == (ROOT / "examples" / "digits" / "teacher.safetensors").stat().st_size
