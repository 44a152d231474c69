"""Stage "lower": trained members and aggregator to the graphs that each device's engine takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.config import BuildConfig
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.device import Device
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.system import System, load_system
from coformer_compiler.model.transformer import FEATURES_NAME, LOGITS_NAME, Transformer
from coformer_compiler.progress import Progress
from coformer_compiler.stages.decoders import write_decoders
from coformer_compiler.stages.lowered_accuracy import measure_lowered
from coformer_passes.graph_files import INLINE_BYTES, save_graph
from coformer_passes.numerics import cases_of, outputs_of, proto_without_weights, with_rounding
from coformer_passes.quantise_gently import legalise_int8
from coformer_passes.runner import legalise
from coformer_runtime.errors import CheckFailed
from coformer_targets import Target, engine_from_onnx, recipe_for, with_precision
from coformer_targets.tensorrt_rtx import require_rtx, write_plans

GOLDEN_CASES = 8
TOLERANCE = 1e-4  # of float32: largest |graph − torch| / (1 + |torch|), on every golden case
LOWER_TOLERANCES = {"float16": 1e-2, "int8": 0.1}  # as a part of the output's greatest magnitude
MEMBER, RECIPE, ENGINE = "member.onnx", "recipe.json", "engine.json"
GOLDEN_INPUT, GOLDEN_OUTPUT, GOLDEN_ANSWER = "golden/input.npy", "golden/output.npy", "golden/answer.npy"


def require_builders(devices: Sequence[Device]) -> None:
    """Raise a CoformerError where a device's plan has to be made here and cannot be."""
    for device in devices:
        if device.target.engine == "tensorrt-rtx":
            require_rtx(device.target)


def lower_members(store: Store, system: Artifact, config: BuildConfig, data: DataSet) -> Artifact:
    """One folder per device: the legal member graph, its golden vectors, recipe or engine facts.

    Aggregators for those that aggregate or can.
    """
    options = {
        "targets": [repr(device.target) for device in config.devices],
        "names": [device.name for device in config.devices],
        "aggregating": config.aggregating,
        "data": data.sha256,
    }

    def make(folder: Path, _work: Path) -> None:
        loaded = load_system(system.path)
        inputs = torch.from_numpy(np.ascontiguousarray(data.test.inputs[:GOLDEN_CASES]))
        features = loaded.sent(inputs)
        with store.progress.stage("graphs", total=len(config.devices), unit="member") as stage:
            for n, device in enumerate(config.devices):
                place = folder / device.name
                _write_member(place, loaded.members[n], device.target, inputs, features[n])
                if n in config.aggregating:
                    _write_aggregators(place, loaded, device, features)
                stage.advance()
        _measure_lowered(folder, loaded, config, data, store.progress)

    return store.stage("lower", (system,), options, make)


def _write_member(
    place: Path, member: Transformer, target: Target, inputs: torch.Tensor, features: torch.Tensor
) -> None:
    (place / "golden").mkdir(parents=True)
    np.save(place / GOLDEN_INPUT, inputs.numpy(), allow_pickle=False)
    np.save(place / GOLDEN_OUTPUT, features.numpy(), allow_pickle=False)
    model = legal_graph(member, target, inputs.numpy())
    save_graph(model, place / MEMBER, inline_bytes=inline_bytes_of(target))
    name, wanted = member.spec.stem.input.name, features.numpy()
    tolerance = tolerance_of(target.precision, wanted)
    verify_graph(place / MEMBER, {name: inputs.numpy()}, FEATURES_NAME, wanted, target.precision, tolerance)
    if member.spec.pool.kind == "causal":
        write_decoders(place, member, target, inputs.numpy(), tolerance, inline_bytes_of(target))
    engine = engine_from_onnx(target, place / MEMBER)
    facts = {
        "kind": engine.kind,
        "version": engine.version,
        "precision": engine.precision,
        "input": name,
        "tolerance": tolerance,
    }
    (place / ENGINE).write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    if target.engine == "tensorrt-rtx":
        write_plans(place / MEMBER, place, (target.sm or 0,))
    if target.engine == "tensorrt":
        recipe = json.dumps(recipe_for(target, place / MEMBER), indent=2, sort_keys=True) + "\n"
        (place / RECIPE).write_text(recipe, encoding="utf-8")


def inline_bytes_of(target: Target) -> int:
    """Weights beyond this lie in a file beside the graph: a parser that reads them from the graph holds them twice."""
    return min(INLINE_BYTES, target.memory_mb * 10**6 // 16)


def _write_aggregators(place: Path, system: System, device: Device, features: Mapping[int, torch.Tensor]) -> None:
    (place / "aggregators").mkdir()
    target = with_precision(device.target, "float32")  # one small product, whose terms may cancel
    with torch.no_grad():
        np.save(place / GOLDEN_ANSWER, system.aggregator(features).numpy(), allow_pickle=False)
        for subset in system.aggregator.subsets:
            inputs = {f"features_{n}": features[n].numpy() for n in subset}
            path = place / aggregator_file(subset)
            graph = legalise(system.aggregator.lower(subset), target, inputs)
            save_graph(graph, path, inline_bytes=inline_bytes_of(target))
            answer = system.aggregator({n: features[n] for n in subset}).numpy()
            verify_graph(path, inputs, LOGITS_NAME, answer)
            if target.engine == "tensorrt-rtx":
                write_plans(path, path.parent, (target.sm or 0,))


def _measure_lowered(folder: Path, system: System, config: BuildConfig, data: DataSet, progress: Progress) -> None:
    def features_of(n: int, inputs: np.ndarray) -> np.ndarray:
        device, name = config.devices[n], system.members[n].spec.stem.input.name
        return run_graph(folder / device.name / MEMBER, {name: inputs}, FEATURES_NAME, device.target.precision)

    measure_lowered(folder, system, config.devices, data.test, features_of, progress)


def tolerance_of(precision: str, wanted: np.ndarray) -> float:
    """What a graph of that precision may differ from torch's output by, as |graph − torch| / (1 + |torch|)."""
    if precision == "float32":
        return TOLERANCE
    return min(1.0, LOWER_TOLERANCES[precision] * max(1.0, float(np.abs(wanted).max())))


def aggregator_file(subset: Sequence[int]) -> str:
    """Path of a subset's graph within its bundle."""
    return f"aggregators/{subset_name(subset)}.onnx"


def legal_graph(member: Transformer, target: Target, inputs: np.ndarray) -> ir.Model:
    """The member's graph, legal for the target; `inputs` `(cases, …)` prove every pass."""
    lower = legalise_int8 if target.precision == "int8" else legalise
    return lower(member.lower("member"), target, {member.spec.stem.input.name: inputs})


def verify_graph(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    output: str,
    wanted: np.ndarray,
    precision: str = "float32",
    tolerance: float = TOLERANCE,
) -> None:
    """Run a finished graph file in ONNX Runtime and compare it with torch, case by case.

    Raises:
        CheckFailed: beyond the tolerance, or if the graph does not run.
    """
    got = run_graph(path, inputs, output, precision)
    if got.shape != wanted.shape:
        raise CheckFailed(
            f"'{output}' is {list(got.shape)}, torch gives {list(wanted.shape)}", f"graph {path}", "build again"
        )
    for case, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        error = float(np.max(np.abs(ours - theirs) / (1 + np.abs(theirs))))
        if not error <= tolerance:
            raise CheckFailed(
                f"'{output}' differs from torch by {error:.1e} on golden case {case}",
                f"graph {path}",
                "build again; if that does not help, report a bug of the lowering",
            )


def run_graph(path: Path, inputs: Mapping[str, np.ndarray], output: str, precision: str = "float32") -> np.ndarray:
    """An output of a graph file in ONNX Runtime, `(cases, …)`; each case is a batch of one.

    A float16 graph is run with every value rounded, which ONNX Runtime itself does at the end of a chain only.

    Raises:
        CheckFailed: if ONNX Runtime refuses the graph or the inputs.
    """
    import onnxruntime

    if precision == "float16":
        return _run_rounded(path, inputs, output)
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = {value.name: inputs[value.name].astype(types[value.type]) for value in session.get_inputs()}
        cases = len(next(iter(feeds.values())))
        rows = [
            session.run([output], {name: array[n : n + 1] for name, array in feeds.items()})[0] for n in range(cases)
        ]
    except Exception as error:  # the library's exceptions share no other base
        raise CheckFailed(f"ONNX Runtime does not run it ({error})", f"graph {path}", "build again") from error
    return np.concatenate(rows)


def _run_rounded(path: Path, inputs: Mapping[str, np.ndarray], output: str) -> np.ndarray:
    model = with_rounding(ir.load(path))
    proto, weights = proto_without_weights(model)
    found = outputs_of(proto, weights, cases_of(inputs, model), f"graph {path}")
    return np.concatenate([case[output] for case in found])


def copy_graphs(graphs: Artifact, device: Device, into: Path) -> None:
    """Copy one device's graphs, golden vectors and recipe into a bundle folder."""
    shutil.copytree(graphs.path / device.name, into, ignore=shutil.ignore_patterns(ENGINE))
