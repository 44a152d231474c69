"""`coformer-node build`: plans for all graphs of a bundle, checked before anyone can load them.

recipe → per graph: memory preflight → child process → per plan: tensors, golden vectors, latency → publish → ledger
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..arrays import Array
from ..bundle import Bundle
from ..durable import move
from ..engines import Engine, check_aggregator, check_member
from ..engines.profiled import check_profile, in_batches
from ..errors import CheckFailed, CoformerError
from ..golden import check_golden, load_golden
from ..manifest import AggregatorSpec
from .cache import Cached, Key, any_built, find_plan, publish, remove_leftovers
from .child import PLAN, TIMING
from .cuda import open_cuda
from .disk import LEFT, writing
from .library import import_tensorrt
from .memory import MEMINFO, available_mb, check_memory
from .recipe import Recipe, graph_files, load_recipe

WARM_UP, RUNS = 10, 50
LEDGER = "ledger.jsonl"
_LOG_BYTES = 4000


class Latency(NamedTuple):
    """Milliseconds of one inference, over `RUNS` runs after `WARM_UP`: copies and synchronisation included."""

    median: float
    p90: float
    best: float


class Built(NamedTuple):
    """What became of one graph.

    Attributes:
        graph: its path in the bundle.
        plan: its plan in the cache.
        new: whether it was built now, not found.
        build_s: seconds of building; 0 where it was found.
        golden: golden cases that ran and their worst difference; None for an aggregator, which has no golden
            vectors of its own.
        latency: of one inference.
    """

    graph: str
    plan: Cached
    new: bool
    build_s: float
    golden: Optional[Tuple[int, float]]
    latency: Latency


def build_bundle(
    bundle: Bundle, rebuild: bool = False, say: Callable[[str], None] = lambda text: None, meminfo: str = MEMINFO
) -> List[Built]:
    """Build, check and publish the plans of a verified bundle; those that are there are checked again.

    Args:
        bundle: its `engines_dir` is the cache.
        rebuild: build those that are there as well.
        say: told what is being done.
        meminfo: the kernel's file on memory.

    Raises:
        CoformerError: too little memory or disk, another board than the recipe's, another build in this cache.
        CheckFailed: TensorRT refuses a graph, a golden vector differs, or the process died. Nothing was published.
    """
    recipe = load_recipe(bundle)
    with _cache_locked(bundle.engines_dir), _work_folder(bundle.engines_dir) as work:
        remove_leftovers(bundle.engines_dir)
        made, timings = [], ""
        for number, graph in enumerate(graph_files(bundle)):
            say("{}: preparing".format(graph))
            folder = os.path.join(work, str(number))
            request = _request_of_bundle(bundle, recipe, graph, rebuild, timings)
            report = report_of_child(request, folder, meminfo)
            made.append((graph, folder, report))
            if report["built"]:
                timings = os.path.join(folder, TIMING)
        say("checking")
        checked = [_check(bundle, graph, folder, report) for graph, folder, report in made]
        if timings:
            with writing("the timing cache", bundle.engines_dir):
                move(timings, report["timing"])
        return [_publish(bundle, recipe, each) for each in checked]


class PlanRequest(NamedTuple):
    """One plan that is to be built.

    Attributes:
        graph, graph_sha256: the ONNX file.
        recipe_text: the recipe, as JSON.
        needed_mb: memory that must be available.
        cache_dir: where plans and the timing cache are looked for.
        rebuild: build what is there as well.
        timings: the timing cache to begin with, "" for this board's in `cache_dir`.
    """

    graph: str
    graph_sha256: str
    recipe_text: str
    needed_mb: int
    cache_dir: str
    rebuild: bool
    timings: str = ""


def _request_of_bundle(bundle: Bundle, recipe: Recipe, graph: str, rebuild: bool, timings: str) -> PlanRequest:
    assert bundle.manifest.engine.recipe is not None
    with open(bundle.file(bundle.manifest.engine.recipe)) as stream:
        recipe_text = stream.read()
    sha256 = bundle.graph_sha256(graph)
    path = bundle.file(graph)
    return PlanRequest(path, sha256, recipe_text, recipe.needed_mb, bundle.engines_dir, rebuild, timings)


def report_of_child(request: PlanRequest, folder: str, meminfo: str = MEMINFO) -> Dict[str, Any]:
    """Run the process that builds one plan in a new `folder`, and return its report.

    Raises:
        CoformerError, CheckFailed: what went wrong in it, or that it died; or too little memory or disk.
    """
    available = available_mb(meminfo)
    if request.rebuild or not any_built(request.cache_dir, request.graph_sha256):
        check_memory(request.needed_mb, available, request.graph)
    content = {
        "parent": os.getpid(),
        "graph": request.graph,
        "graph_sha256": request.graph_sha256,
        "recipe": request.recipe_text,
        "cache_dir": request.cache_dir,
        "rebuild": request.rebuild,
        "timings": request.timings,
        "available_mb": available,
    }
    request_path, log_path = os.path.join(folder, "request.json"), os.path.join(folder, "log.txt")
    with writing("what a build needs", folder):
        os.mkdir(folder)
        with open(request_path, "w") as stream:
            json.dump(content, stream)
        log = open(log_path, "wb")  # noqa: SIM115 - closed below
    command = [sys.executable, "-m", "coformer_runtime.tensorrt.child", request_path]
    with log:
        code, said = _run(command, log)
    if not said.endswith(b"\n"):  # it died before it had written all of its report
        raise _died(code, command, log_path, request.graph)
    report: Dict[str, Any] = json.loads(said.decode("utf-8"))
    if "error" not in report:
        return report
    error = report["error"]
    kind = CheckFailed if error["kind"] == "check" else CoformerError
    raise kind(error["what"], error["where"], error["mend"])


def _run(command: List[str], log: BinaryIO) -> Tuple[int, bytes]:
    """Run a command, which is told one more word: the pipe to write into. Return its exit code and what it wrote."""
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        try:
            words = command + [str(writer)]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,))
        finally:
            os.close(writer)
        with process:
            try:
                said = pipe.read()
            except BaseException:
                process.kill()
                raise
    return process.returncode, said


def _died(code: int, command: List[str], log_path: str, graph: str) -> CheckFailed:
    with open(log_path, "rb") as stream:
        said = stream.read()[-_LOG_BYTES:].decode("utf-8", "replace").strip() or "nothing"
    if code == -signal.SIGKILL:
        return CheckFailed(
            "the process that built it was killed, most likely for want of memory; it said: {}".format(said),
            "graph {}".format(graph),
            "stop other programs and build again; {}".format(LEFT),
        )
    how = "signal {}".format(-code) if code < 0 else "exit code {}".format(code)
    return CheckFailed(
        "the process that built it ended with {}; it said: {}".format(how, said),
        "graph {}, {}".format(graph, " ".join(command)),
        "mend what it says; {}".format(LEFT),
    )


class _Checked(NamedTuple):
    graph: str
    folder: str
    report: Dict[str, Any]
    golden: Optional[Tuple[int, float]]
    latency: Latency


def _check(bundle: Bundle, graph: str, folder: str, report: Dict[str, Any]) -> _Checked:
    """Open a plan, new or found, and hold it to the manifest and the golden vectors."""
    from ..engines.tensorrt import TensorRtEngine

    key, path = Key(*report["key"]), bundle.file(graph)
    plan = os.path.join(folder, PLAN) if report["built"] else find_plan(bundle.engines_dir, key, path).plan
    trt = import_tensorrt(path)
    aggregators = {spec.file: spec for spec in bundle.manifest.aggregators}
    with TensorRtEngine(trt, open_cuda(path), plan, path) as engine:
        if graph in aggregators:
            check_aggregator(bundle, aggregators[graph], engine)
            return _Checked(graph, folder, report, None, _check_finite(bundle, aggregators[graph], engine))
        manifest = bundle.manifest
        inputs = load_golden(bundle, manifest.golden.input, manifest.input.dtype, manifest.input.shape)
        profiles = {} if manifest.profiles is None else {spec.file: spec for spec in manifest.profiles.graphs}
        if graph in profiles:
            shape = profiles[graph].shape
            check_profile(bundle, profiles[graph], engine)
            golden = check_golden(bundle, engine, profiles[graph])
            feeds = {manifest.input.name: inputs[list(next(in_batches(len(inputs), shape[0])))][..., : shape[-1]]}
            return _Checked(graph, folder, report, golden, measure_latency(engine, feeds))
        if graph != manifest.engine.file:
            return _Checked(graph, folder, report, None, _check_decoder(bundle, graph, engine))
        check_member(bundle, engine)
        golden = check_golden(bundle, engine)
        latency = measure_latency(engine, {manifest.input.name: inputs[:1]})
        return _Checked(graph, folder, report, golden, latency)


def _check_finite(bundle: Bundle, spec: AggregatorSpec, engine: Engine) -> Latency:
    import numpy

    feeds = {each.name: numpy.ones(each.shape, each.dtype) for each in engine.inputs}
    if not numpy.isfinite(engine.run(feeds)[bundle.manifest.answer.name]).all():
        raise CheckFailed(
            "its answer to ones is not finite",
            "graph {}".format(bundle.file(spec.file)),
            "report it as a bug, with the graph",
        )
    return measure_latency(engine, feeds)


def _check_decoder(bundle: Bundle, graph: str, engine: Engine) -> Latency:
    """A graph of a generation, on the first words of all, at the first places and on empty caches."""
    import numpy

    feeds = {each.name: numpy.zeros(each.shape, each.dtype) for each in engine.inputs}
    if "places" in feeds:
        places = feeds["places"]
        feeds["places"] = numpy.arange(places.size, dtype=places.dtype).reshape(places.shape)
    if not all(numpy.isfinite(array).all() for array in engine.run(feeds).values()):
        raise CheckFailed(
            "what it gives is not finite",
            "graph {}".format(bundle.file(graph)),
            "report it as a bug, with the graph",
        )
    return measure_latency(engine, feeds)


def measure_latency(engine: Engine, feeds: Dict[str, Array]) -> Latency:
    """Return the latency of one inference."""
    times_ms = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        engine.run(feeds)
        times_ms.append((time.perf_counter() - started) * 1e3)
    ordered = sorted(times_ms[WARM_UP:])
    return Latency(ordered[RUNS // 2], ordered[RUNS * 9 // 10], ordered[0])


def _publish(bundle: Bundle, recipe: Recipe, checked: _Checked) -> Built:
    key, report = Key(*checked.report["key"]), checked.report
    cache_dir, path = bundle.engines_dir, bundle.file(checked.graph)
    if report["built"]:
        with writing("the description of the plan for {}".format(path), cache_dir):
            plan = publish(cache_dir, key, os.path.join(checked.folder, PLAN))
    else:
        plan = find_plan(cache_dir, key, path)
    built = Built(checked.graph, plan, report["built"], report["build_s"], checked.golden, checked.latency)
    with writing("the ledger's line for {}".format(path), cache_dir, "its plan is checked and can be used"):
        _append(os.path.join(cache_dir, LEDGER), _ledger_line(bundle, recipe, key, built))
    return built


def built_line(built: Built) -> str:
    """Return what became of one graph as a line for people."""
    golden = ""
    if built.golden is not None:
        golden = ", {} golden cases, worst difference {:.3g}".format(*built.golden)
    how = "built in {:.1f} s".format(built.build_s) if built.new else "was built already"
    latency = "{:.3f} ms (median of {}, 90 % within {:.3f})".format(built.latency.median, RUNS, built.latency.p90)
    return "{}: {}{}, {}: {}".format(built.graph, how, golden, latency, built.plan.plan)


def _ledger_line(bundle: Bundle, recipe: Recipe, key: Key, built: Built) -> Dict[str, Any]:
    manifest, latency = bundle.manifest, built.latency
    line: Dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": manifest.device,
        "target": manifest.target,
        "build": manifest.build,
        "graph": built.graph,
        "key": dict(key._asdict()),
        "plan_sha256": built.plan.sha256,
        "plan_bytes": built.plan.size_bytes,
        "built": built.new,
        "build_s": round(built.build_s, 3),
        "needed_mb": recipe.needed_mb,
        "latency_ms": {name: round(value, 4) for name, value in latency._asdict().items()},
    }
    if built.golden is not None:
        cases, worst = built.golden
        line["golden"] = {"cases": cases, "worst": worst, "tolerance": manifest.golden.tolerance}
    return line


def _append(path: str, line: Dict[str, Any]) -> None:
    """Append one line to a file of JSON lines, whole or not at all."""
    content = (json.dumps(line, sort_keys=True) + "\n").encode("utf-8")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(handle).st_size
        if os.write(handle, content) < len(content):  # a disk that fills up takes the beginning
            os.ftruncate(handle, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _cache_locked(cache_dir: str) -> Iterator[None]:
    """Be the only build in this cache; what an earlier one left when it was killed is removed."""
    with writing("the directory for plans", cache_dir):
        os.makedirs(cache_dir, exist_ok=True)
        lock = open(os.path.join(cache_dir, "lock"), "w")  # noqa: SIM115 - closed below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CoformerError("another build is running here", cache_dir, "wait until it has ended") from error
        for name in os.listdir(cache_dir):
            if name.startswith(_WORK):
                shutil.rmtree(os.path.join(cache_dir, name))
        yield


_WORK = "building-"


@contextlib.contextmanager
def _work_folder(cache_dir: str) -> Iterator[str]:
    """A folder in the same file system as the cache, gone afterwards."""
    with writing("a folder for this build", cache_dir):
        folder = tempfile.mkdtemp(prefix=_WORK, dir=cache_dir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
