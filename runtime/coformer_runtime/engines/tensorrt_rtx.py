"""Plans of TensorRT-RTX, made ahead of time and shipped in the bundle: `member.sm89.plan` beside `member.onnx`.

The card finishes a plan when it is first loaded there. What it compiles is kept in the directory for plans, one file
per plan, so that it is done once.
"""

import os
from typing import Any

from ..bundle import Bundle
from ..durable import replace_file
from ..errors import CheckFailed, CoformerError
from ..tensorrt.api import version_of
from ..tensorrt.cache import read_or_empty
from ..tensorrt.cuda import Cuda, open_cuda
from .tensorrt import TensorRtEngine

MEND_IMPORT = "install it: pip install tensorrt-rtx-cu12==1.7.*"


def open_rtx_plan(bundle: Bundle, path: str) -> "TensorRtRtxEngine":
    """Open the plan that a verified bundle holds of one of its graphs for this machine's card.

    Raises:
        CoformerError: TensorRT-RTX or CUDA is missing, it is another version, or no plan is for this card.
        CheckFailed: TensorRT-RTX refuses the plan.
    """
    where, built = bundle.file(path), bundle.manifest.engine.version
    rtx = import_rtx(where)
    if version_of(rtx.__version__) != version_of(built):  # its plans do not outlive a minor version
        raise CoformerError(
            "the plan is of TensorRT-RTX {}, here is {}".format(built, rtx.__version__),
            where,
            "install the version of the bundle, or build the bundle again",
        )
    cuda = open_cuda(where)
    device = cuda.device()
    stem = path[: -len(".onnx")] if path.endswith(".onnx") else path
    name = "{}.sm{}.plan".format(stem, device.sm)
    plans = {spec.path: spec.sha256 for spec in bundle.manifest.files if spec.path.startswith(stem + ".sm")}
    if name not in plans:
        made = ", ".join(sorted(plan[len(stem) + 3 : -len(".plan")] for plan in plans)) or "none"
        raise CoformerError(
            "'{}' is SM {}, the bundle's plans are for: {}".format(device.name, device.sm, made),
            where,
            "build the bundle for this card's target ('coformerc targets' lists them)",
        )
    cache = os.path.join(bundle.engines_dir, "{}.rtx-cache".format(plans[name]))
    return TensorRtRtxEngine(rtx, cuda, bundle.file(name), where, cache)


def import_rtx(where: str) -> Any:
    """Return the module `tensorrt_rtx`; raise a CoformerError where it cannot be imported."""
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise CoformerError("TensorRT-RTX cannot be imported ({})".format(error), where, MEND_IMPORT) from error
    return tensorrt_rtx


class TensorRtRtxEngine(TensorRtEngine):
    """A plan of TensorRT-RTX; `cache_path` is where what the card has compiled is kept when the engine is closed."""

    def __init__(self, trt: Any, cuda: Cuda, plan_path: str, graph_path: str, cache_path: str) -> None:
        self._cache_path, self._kept = cache_path, read_or_empty(cache_path)
        super().__init__(trt, cuda, plan_path, graph_path)

    def _open_context(self, engine: Any) -> Any:
        config = engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        if self._kept and not self._cache.deserialize(self._kept):
            self._kept = b""  # of another driver or card: compiled anew, and replaced when the engine is closed
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def close(self) -> None:
        """Keep what was compiled, and free the GPU's memory."""
        if self._closed:
            return
        content = bytes(self._cache.serialize())
        super().close()
        if content and content != self._kept:
            try:
                os.makedirs(os.path.dirname(self._cache_path), exist_ok=True)
                replace_file(self._cache_path, content)
            except OSError as error:
                raise CheckFailed(
                    "what the card compiled cannot be kept ({})".format(error.strerror),
                    self._cache_path,
                    "free some space; the plan itself is as it was",
                ) from error
