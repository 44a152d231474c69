"""The process that builds one plan: `python -m coformer_runtime.tensorrt.child REQUEST PIPE`.

A process of its own gives all of its memory back, and takes nobody with it when it dies. It writes into the folder of
REQUEST only: the plan and the timing cache. Its report goes into PIPE, a file descriptor, so that it arrives from a
full disk as well. It publishes nothing; the parent does, after it has checked the plan.
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
from .disk import writing
from .library import import_tensorrt
from .memory import check_memory
from .plan import plan_from_onnx
from .recipe import check_board, recipe_from_json, timing_cache_path

PLAN, TIMING = "built.plan", "built.timing"
_PR_SET_PDEATHSIG = 1


def main(request_path: str, pipe: int) -> int:
    """Do what a request says and write the report, a line; return 0, or 1 where the report holds an error."""
    with open(request_path) as stream:
        request = json.load(stream)
    _die_with(request["parent"])
    folder = os.path.dirname(request_path)
    try:
        report = _answer(request, folder)
    except CoformerError as error:
        kind = "check" if isinstance(error, CheckFailed) else "mistake"
        report = {"error": {"kind": kind, "what": error.what, "where": error.where, "mend": error.mend}}
    with open(pipe, "wb") as stream:
        stream.write(json.dumps(report).encode("utf-8") + b"\n")
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
    plan, timings = plan_from_onnx(trt, graph, recipe, read_or_empty(request["timings"] or timing))
    with writing("the plan ({:,} bytes)".format(memoryview(plan).nbytes), folder):
        replace_file(os.path.join(folder, PLAN), plan)
    with writing("the timing cache ({:,} bytes)".format(memoryview(timings).nbytes), folder):
        replace_file(os.path.join(folder, TIMING), timings)
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
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
