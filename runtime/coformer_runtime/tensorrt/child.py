"""The process that builds one plan: `python -m coformer_runtime.tensorrt.child REQUEST`.

A process of its own gives all of its memory back, and takes nobody with it when it dies. It writes into the folder of
REQUEST only: the plan, the timing cache and a report. It publishes nothing; the parent does, after it has checked the
plan.
"""

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any, Dict

from ..durable import replace_file
from ..errors import CheckFailed, CoformerError
from .board import board_here
from .cache import Key, find_plan, key_of, read_or_empty
from .cuda import open_cuda
from .library import import_tensorrt
from .memory import check_memory
from .plan import plan_from_onnx
from .recipe import check_board, recipe_from_json, timing_cache_path

PLAN, TIMING, REPORT = "built.plan", "built.timing", "report.json"
_PR_SET_PDEATHSIG = 1


def main(request_path: str) -> int:
    """Do what a request says and write the report; return 0, or 1 where the report holds an error."""
    with open(request_path) as stream:
        request = json.load(stream)
    _die_with(request["parent"])
    folder = os.path.dirname(request_path)
    try:
        report = _answer(request, folder)
    except CoformerError as error:
        kind = "check" if isinstance(error, CheckFailed) else "mistake"
        report = {"error": {"kind": kind, "what": error.what, "where": error.where, "mend": error.mend}}
    replace_file(os.path.join(folder, REPORT), json.dumps(report).encode("utf-8"))
    return 1 if "error" in report else 0


def _answer(request: Dict[str, Any], folder: str) -> Dict[str, Any]:
    graph, cache_dir = request["graph"], request["cache_dir"]
    recipe = recipe_from_json(request["recipe"], graph)
    trt = import_tensorrt(graph)
    board = board_here(trt, open_cuda(graph))
    check_board(recipe, board, graph)
    key = key_of(board, request["graph_sha256"], recipe)
    timing = timing_cache_path(recipe, board, cache_dir)
    report: Dict[str, Any] = {"key": list(key), "timing": timing, "built": False, "build_s": 0.0}
    if not request["rebuild"] and _is_there(cache_dir, key, graph):
        return report
    check_memory(recipe.needed_mb, request["available_mb"], graph)
    started = time.monotonic()
    plan, timing_content = plan_from_onnx(trt, graph, recipe, read_or_empty(timing))
    try:
        replace_file(os.path.join(folder, PLAN), plan)
        replace_file(os.path.join(folder, TIMING), timing_content)
    except OSError as error:
        raise CoformerError(
            "the plan ({:,} bytes) cannot be written ({})".format(memoryview(plan).nbytes, error.strerror),
            folder,
            "free some space, or name another directory with --cache; what was built before is as it was",
        ) from error
    report.update(built=True, build_s=time.monotonic() - started)
    return report


def _is_there(cache_dir: str, key: Key, graph: str) -> bool:
    """Whether a whole plan is there; a damaged one is built again."""
    try:
        find_plan(cache_dir, key, graph)
    except CoformerError:
        return False
    return True


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, whatever ends it (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
