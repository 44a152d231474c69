"""What `coformerc validate` can say of a bundle's engine on this machine.

ONNX Runtime engines run. For TensorRT, which is built on the board, the graphs are held against the operator table of
the board's version, against the onnx of its time, and against NVIDIA's own parser and builder, as far as these are at
hand; where this machine has the board's TensorRT and GPU, the engine is built and run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from coformer_compiler.stages.measure import HOST_ENGINE
from coformer_passes.check_operators import check_against
from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.golden import check_bundle
from coformer_targets import operator_table_of
from coformer_targets.tensorrt_rtx import ARCHITECTURES, parser_problems, plan_from_onnx, rtx_is_installed

ON_GOLDEN = "engine on golden vectors"
OLD_ONNX, OLD_OPSET, OLD_PYTHON = "1.8.1", 13, "python3.6"
_OLD_VERSION = "import onnx; print(onnx.__version__)"
_OLD_CHECK = "import onnx, sys\nonnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True)"

Checks = Iterator[tuple[str, Callable[[], object] | str]]


def engine_checks(bundle: Bundle, old_python: Path | None = None) -> Checks:
    """Name of each check and either the check, which raises a CoformerError, or why it cannot run here."""
    if bundle.manifest.engine.kind == HOST_ENGINE:
        yield ON_GOLDEN, lambda: check_bundle(bundle)
        return
    rtx = bundle.manifest.engine.kind == "tensorrt-rtx"
    why_not = _why_no_card(bundle) if rtx else _why_not_here(bundle)
    run = check_bundle if rtx else _build_and_run
    yield ON_GOLDEN, (lambda: run(bundle)) if why_not is None else why_not
    yield "operators of the target", lambda: _check_operators(bundle)
    yield from _old_onnx_check(bundle, old_python)
    without = None if rtx_is_installed() else "tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)"
    yield "NVIDIA's parser", without or (lambda: _check_parser(bundle))
    yield "NVIDIA's builder, ahead of time", without or (lambda: _check_builder(bundle))


def check_structure(bundle: Bundle) -> None:
    """Every graph through onnx.checker; raises a CheckFailed."""
    import onnx

    for path in graphs_of(bundle):
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except Exception as error:  # its own kinds, and protobuf's for a file that is no graph
            raise CheckFailed(f"onnx.checker: {error}", str(path), "build again") from error


def graphs_of(bundle: Bundle) -> list[Path]:
    """All graphs of a bundle."""
    return [Path(bundle.file(spec.path)) for spec in bundle.manifest.files if spec.path.endswith(".onnx")]


def _old_onnx_check(bundle: Bundle, old_python: Path | None) -> Checks:
    """The graphs that the onnx of old boards' time can read; nothing for a bundle without any."""
    name = f"checker of onnx {OLD_ONNX}"
    opsets = {path: _opset(path) for path in graphs_of(bundle)}
    unknown = [path for path, opset in opsets.items() if opset is None]
    old = [path for path, opset in opsets.items() if opset is not None and opset <= OLD_OPSET]
    if unknown:
        yield name, lambda: _refuse_without_opset(unknown)
    elif old:
        python = _old_python(old_python)
        missing = f"no Python with onnx {OLD_ONNX}: name one with --old-python"
        yield name, missing if python is None else lambda: _check_with_old_onnx(old, python)


def _opset(path: Path) -> int | None:
    """The version of ONNX's own operators that a graph imports, None where it imports none."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=None)


def _refuse_without_opset(paths: list[Path]) -> None:
    raise CheckFailed(
        "it imports no version of ONNX's own operators (opset_import has no entry for the domain '')",
        ", ".join(f"graph {path.name}" for path in paths),
        "build again, or export the graph with that entry",
    )


def _check_operators(bundle: Bundle) -> None:
    """Every node of every graph against the operator table of the engine's version."""
    import onnx_ir as ir

    engine = bundle.manifest.engine
    table = operator_table_of(engine.kind, engine.version, f"bundle {bundle.directory}")
    assert table is not None
    for path in graphs_of(bundle):
        check_against(ir.load(path), table, bundle.manifest.target)


def _check_parser(bundle: Bundle) -> None:
    """TensorRT-RTX knows the operators of TensorRT 11, so this is a check of types and structure."""
    for path in graphs_of(bundle):
        problems = parser_problems(path)
        if problems:
            told = "; ".join(str(problem) for problem in problems[:3])
            raise CheckFailed(f"it refuses {len(problems)} nodes: {told}", f"graph {path.name}", "build again")


def _check_builder(bundle: Bundle) -> None:
    """A plan for an Ampere card, the nearest to a Jetson Orin that can be built without a GPU; it is thrown away."""
    for path in graphs_of(bundle):
        plan_from_onnx(path, ARCHITECTURES[0])


def _old_python(named: Path | None) -> str | None:
    """A Python that has the onnx of old boards' time.

    Raises:
        CoformerError: one is named and has not.
    """
    found = str(named) if named is not None else shutil.which(OLD_PYTHON)
    if found is None:
        return None
    done = _run([found, "-c", _OLD_VERSION])
    version = done.stdout.strip() if done is not None and done.returncode == 0 else None
    if version == OLD_ONNX:
        return found
    if named is None:
        return None
    what = "does not run" if done is None else f"has onnx {version}" if version else "has no onnx"
    mend = f"name a Python 3.6 with onnx {OLD_ONNX} (pip install onnx=={OLD_ONNX})"
    raise CoformerError(what, f"--old-python {named}", mend)


def _check_with_old_onnx(paths: list[Path], python: str) -> None:
    for path in paths:
        command = [python, "-c", _OLD_CHECK, str(path)]
        done = _run(command)
        if done is None or done.returncode != 0:
            said = "nothing" if done is None else " ".join(done.stderr.strip().splitlines()[-1:]) or "nothing"
            raise CheckFailed(f"it refuses the graph: {said}", f"graph {path.name}, {python}", "build again")


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """A finished command of another Python, None where it cannot be started; it sees none of our packages."""
    try:
        return subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _why_not_here(bundle: Bundle) -> str | None:
    """Why the bundle's engine cannot be built and run on this machine, None where it can."""
    from coformer_runtime.tensorrt.board import board_here
    from coformer_runtime.tensorrt.cuda import open_cuda
    from coformer_runtime.tensorrt.library import import_tensorrt
    from coformer_runtime.tensorrt.recipe import check_board, load_recipe

    kind, where = bundle.manifest.engine.kind, bundle.directory
    try:
        check_board(load_recipe(bundle), board_here(import_tensorrt(where), open_cuda(where)), where)
    except CoformerError as error:
        return f"{kind} does not run on this machine ({error.what}); `coformer-node` checks it on the board"
    return None


def _why_no_card(bundle: Bundle) -> str | None:
    """Why the bundle's plans for TensorRT-RTX cannot be run on this machine, None where they can."""
    from coformer_runtime.engines.tensorrt_rtx import import_rtx
    from coformer_runtime.tensorrt.cuda import open_cuda

    try:
        import_rtx(bundle.directory)
        open_cuda(bundle.directory).device()
    except CoformerError as error:
        return f"tensorrt-rtx does not run on this machine ({error.what}); `coformer-node` checks it on the device"
    return None


def _build_and_run(bundle: Bundle) -> None:
    """Build all plans as the board would, in a cache that is thrown away, and run the golden vectors."""
    from coformer_runtime.tensorrt.build import build_bundle

    with tempfile.TemporaryDirectory(prefix="coformerc-validate-") as cache:
        build_bundle(open_bundle(bundle.directory, engines_dir=cache))
