"""How the graphs of a pack are opened: by ONNX Runtime as they are, by TensorRT through a plan that is built for it.

Plans are not kept: a pack has a thousand of them. The timing cache is, since it makes the next build quick.
"""

import abc
import contextlib
import os
import shutil
import tempfile
from typing import Any, ContextManager, Dict, Iterator

from .durable import move
from .engines import Engine
from .errors import CoformerError
from .profile_pack import WRITE_AGAIN, Pack, Point
from .tensorrt.build import PlanRequest, report_of_child
from .tensorrt.child import PLAN, TIMING
from .tensorrt.disk import writing
from .tensorrt.recipe import check_board, recipe_from_json

PLANS = ".coformer-profile"
MEASURED = "the points that were measured are kept"


class Opener(abc.ABC):
    """Opens graphs of one pack.

    Attributes:
        version: of the engine's library.
        device: the GPU and its CUDA, "" on a CPU.
    """

    version = ""
    device = ""

    @abc.abstractmethod
    def open(self, point: Point) -> ContextManager[Engine]:
        """Open the engine of one point."""


@contextlib.contextmanager
def opener_for(pack: Pack, threads: int, folder: str) -> Iterator[Opener]:
    """Yield the opener of the pack's kind of engine; `folder` is where plans are made.

    Raises:
        CoformerError: the library is missing, this is another board than the pack is for, or nothing here measures
            that kind.
    """
    if pack.engine == "onnxruntime":
        yield _OnnxRuntime(pack, threads)
    elif pack.engine == "tensorrt":
        place = os.path.join(folder, PLANS)
        with writing("the directory for plans", place, MEASURED):
            os.makedirs(place, exist_ok=True)
            work = tempfile.mkdtemp(prefix="building-", dir=place)
        try:
            yield _TensorRt(pack, place, work)
        finally:
            shutil.rmtree(work)
    else:
        raise CoformerError(
            "its engine is '{}', which is not measured on boards".format(pack.engine),
            pack.directory,
            "write a pack for a target with ONNX Runtime or TensorRT",
        )


class _OnnxRuntime(Opener):
    def __init__(self, pack: Pack, threads: int) -> None:
        from .engines.onnxruntime import OnnxRuntimeEngine, installed_version

        self._pack, self._threads, self._engine = pack, threads, OnnxRuntimeEngine
        self.version = installed_version(pack.directory)

    def open(self, point: Point) -> ContextManager[Engine]:
        return self._engine(self._pack.file(point.graph), self._threads)


class _TensorRt(Opener):
    def __init__(self, pack: Pack, cache_dir: str, work: str) -> None:
        from .tensorrt.board import board_here
        from .tensorrt.cuda import open_cuda
        from .tensorrt.library import import_tensorrt

        self._pack, self._cache_dir, self._work = pack, cache_dir, work
        self._trt = import_tensorrt(pack.directory)
        self._cuda = open_cuda(pack.directory)
        self._recipe_text = _recipe_text(pack)
        self._recipe = recipe_from_json(self._recipe_text, pack.directory)
        board = board_here(self._trt, self._cuda)
        check_board(self._recipe, board, pack.directory)
        self.version = board.tensorrt
        self.device = "{} (SM {:g}), CUDA {}".format(board.device, board.sm / 10, board.cuda)

    @contextlib.contextmanager
    def open(self, point: Point) -> Iterator[Engine]:
        from .engines.tensorrt import TensorRtEngine

        path = self._pack.file(point.graph)
        request = PlanRequest(
            path, self._pack.sha256s[point.graph], self._recipe_text, self._recipe.needed_mb, self._cache_dir, True
        )
        with writing("a folder for this build", self._work, MEASURED):
            folder = tempfile.mkdtemp(dir=self._work)
        try:
            report = report_of_child(request, os.path.join(folder, "plan"))
            self._keep_timings(report, os.path.join(folder, "plan", TIMING))
            plan = os.path.join(folder, "plan", PLAN)
            with TensorRtEngine(self._trt, self._cuda, plan, path) as engine:
                yield engine
        finally:
            shutil.rmtree(folder)

    def _keep_timings(self, report: Dict[str, Any], fresh: str) -> None:
        with writing("the timing cache", self._cache_dir, MEASURED):
            move(fresh, report["timing"])


def _recipe_text(pack: Pack) -> str:
    if pack.recipe is None:
        raise CoformerError("it has no recipe, which TensorRT needs", pack.directory, WRITE_AGAIN)
    with open(pack.file(pack.recipe)) as stream:
        return stream.read()
