"""Stage "measure": latency on this machine, of the teacher's engine, of each member's, and of whole requests.

Engines that cannot run here (TensorRT) are left out, and the report says so. The teacher is there to be compared with:
where no member runs here it does not either, and nobody waits for it or holds gigabytes of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.config import BuildConfig
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.lower import GOLDEN_INPUT, MEMBER
from coformer_passes.graph_files import save_graph
from coformer_passes.runner import legalise
from coformer_runtime.answer import Phases
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.engines.profiled import in_batches
from coformer_runtime.manifest import load_manifest
from coformer_targets import with_precision

RUNS, WARM_UP = 50, 1  # as in the paper, section IV-A
RESULT = "latency.json"
HOST_ENGINE = "onnxruntime"


@dataclass(frozen=True)
class Milliseconds:
    """Median and 95th percentile over `runs` runs after the warm-up."""

    median: float
    p95: float
    runs: int


@dataclass(frozen=True)
class ProfileLatency:
    """Every member's graph of one shape, for a whole batch."""

    shape: tuple[int, ...]
    members: tuple[Milliseconds | None, ...]


@dataclass(frozen=True)
class Latencies:
    """What was measured; None where the engine does not run on this machine.

    `timeline` is the median request's; `profiles` are empty where there is one shape.
    """

    teacher: Milliseconds | None
    members: tuple[Milliseconds | None, ...]
    aggregated: Milliseconds | None
    timeline: Phases | None
    profiles: tuple[ProfileLatency, ...] = ()


def measure(store: Store, parents: Sequence[Artifact], teacher: Transformer, config: BuildConfig) -> Artifact:
    """Latencies with one thread per engine; `parents` are the artifacts of import and pack."""

    def make(folder: Path, work: Path) -> None:
        bundles = parents[1].path
        inputs = np.load(bundles / config.devices[0].name / GOLDEN_INPUT)[:1]
        runs_here = [device.target.engine == HOST_ENGINE for device in config.devices]
        members = [
            engine_latency(bundles / device.name / MEMBER, inputs) if here else None
            for device, here in zip(config.devices, runs_here, strict=True)
        ]
        aggregated, timeline = (None, None)
        if all(runs_here):
            aggregated, timeline = cluster_latency([bundles / device.name for device in config.devices], inputs)
        profiles = _profile_latencies([bundles / device.name for device in config.devices], members)
        alone = teacher_latency(teacher, config, inputs, work / "teacher.onnx") if any(runs_here) else None
        result = Latencies(alone, tuple(members), aggregated, timeline, profiles)
        text = json.dumps(asdict(result) | {"timeline": None if timeline is None else timeline._asdict()})
        (folder / RESULT).write_text(text, encoding="utf-8")

    return store.stage("measure", parents, {}, make)


def latencies_of(artifact: Artifact) -> Latencies:
    """The figures on disk."""
    data = json.loads((artifact.path / RESULT).read_text(encoding="utf-8"))

    def figures(value: dict[str, Any] | None) -> Milliseconds | None:
        return None if value is None else Milliseconds(**value)

    timeline = None if data["timeline"] is None else Phases(**data["timeline"])
    profiles = tuple(
        ProfileLatency(tuple(each["shape"]), tuple(figures(member) for member in each["members"]))
        for each in data["profiles"]
    )
    members = tuple(figures(each) for each in data["members"])
    return Latencies(figures(data["teacher"]), members, figures(data["aggregated"]), timeline, profiles)


def _profile_latencies(bundles: Sequence[Path], members: Sequence[Milliseconds | None]) -> tuple[ProfileLatency, ...]:
    """All shapes, the smallest first; those of the members' own graphs are known already."""
    found: dict[tuple[int, ...], list[Milliseconds | None]] = {}
    for bundle, own in zip(bundles, members, strict=True):
        manifest = load_manifest(str(bundle))
        if manifest.profiles is None:
            return ()
        found.setdefault(manifest.input.shape, []).append(own)
        inputs = np.load(bundle / GOLDEN_INPUT)
        for spec in manifest.profiles.graphs:
            batch = inputs[list(next(in_batches(len(inputs), spec.shape[0])))][..., : spec.shape[-1]]
            timed = None if own is None else engine_latency(bundle / spec.file, np.ascontiguousarray(batch))
            found.setdefault(spec.shape, []).append(timed)
    return tuple(ProfileLatency(shape, tuple(found[shape])) for shape in sorted(found))


def teacher_latency(teacher: Transformer, config: BuildConfig, inputs: np.ndarray, graph: Path) -> Milliseconds:
    """The whole teacher in float32, made legal for the first device of this machine's kind that computes in it."""
    on_host = [device.target for device in config.devices if device.target.engine == HOST_ENGINE]
    hosts = [with_precision(target, "float32") for target in on_host if "float32" in target.precisions]
    lowered = teacher.lower("teacher", with_head=True)
    save_graph(legalise(lowered, hosts[0], {teacher.spec.stem.input.name: inputs}) if hosts else lowered, graph)
    return engine_latency(graph, inputs)


def cluster_latency(bundles: Sequence[Path], inputs: np.ndarray) -> tuple[Milliseconds, Phases]:
    """Whole requests through a cluster of local processes: (latency, phases of the median request)."""
    with LocalCluster([str(bundle) for bundle in bundles], deadline_ms=5000) as cluster, cluster.client() as client:
        phases: list[Phases] = []
        timed = _timed(lambda: phases.append(client.infer(inputs).phases))
    phases = sorted(phases[WARM_UP:], key=lambda each: each.total_ms)
    return timed, phases[len(phases) // 2]


def engine_latency(graph: Path, inputs: np.ndarray) -> Milliseconds:
    """One graph file in ONNX Runtime with one thread, on a batch of one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    feed = {wanted.name: inputs.astype(np.float32) if wanted.type == "tensor(float)" else inputs}
    return _timed(lambda: session.run(None, feed))


def _timed(run: Callable[[], object]) -> Milliseconds:
    times = []
    for _ in range(WARM_UP + RUNS):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
    counted = times[WARM_UP:]
    return Milliseconds(float(np.median(counted)), float(np.percentile(counted, 95)), len(counted))
