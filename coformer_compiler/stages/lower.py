"""Stage "lower": trained members and aggregator to the graphs that each device's engine takes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.config import BuildConfig
from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.device import Device
from coformer_compiler.model.aggregator import subset_name
from coformer_compiler.model.system import System, load_system
from coformer_compiler.model.transformer import FEATURES_NAME, LOGITS_NAME, Transformer
from coformer_compiler.progress import Progress
from coformer_compiler.stages.decoders import write_decoders
from coformer_compiler.stages.lowered_accuracy import measure_lowered
from coformer_compiler.stages.shape_profiles import (
    Profile,
    feeds_of,
    further_profiles,
    golden_outputs,
    manifest_profiles,
    shaped,
)
from coformer_passes.graph_files import INLINE_BYTES, save_graph
from coformer_passes.numerics import cases_of, outputs_of, proto_without_weights, with_rounding
from coformer_passes.one_weights_file import WeightsFile
from coformer_passes.quantise_gently import legalise_int8
from coformer_passes.runner import legalise
from coformer_runtime.bundle import WEIGHTS_SUFFIX
from coformer_runtime.engines.profiled import in_batches
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
        "profiles": config.profiles.model_dump(),
    }

    def make(folder: Path, _work: Path) -> None:
        loaded = load_system(system.path)
        inputs = torch.from_numpy(np.ascontiguousarray(data.test.inputs[:GOLDEN_CASES]))
        features = loaded.sent(inputs)
        with store.progress.stage("graphs", total=len(config.devices), unit="member") as stage:
            for n, device in enumerate(config.devices):
                place = folder / device.name
                _write_member(place, loaded.members[n], device.target, inputs, features[n], config.profiles)
                if n in config.aggregating:
                    _write_aggregators(place, loaded, device, features)
                stage.advance()
        _measure_lowered(folder, loaded, config, data, store.progress)

    return store.stage("lower", (system,), options, make)


def _write_member(
    place: Path,
    member: Transformer,
    target: Target,
    inputs: torch.Tensor,
    features: torch.Tensor,
    profiles: ProfilesSection,
) -> None:
    (place / "golden").mkdir(parents=True)
    np.save(place / GOLDEN_INPUT, inputs.numpy(), allow_pickle=False)
    np.save(place / GOLDEN_OUTPUT, features.numpy(), allow_pickle=False)
    name, wanted = member.spec.stem.input.name, features.numpy()
    tolerance = tolerance_of(target.precision, wanted)
    further = further_profiles(profiles)
    if further:
        with WeightsFile(place / f"{MEMBER}{WEIGHTS_SUFFIX}") as weights:
            for profile in (Profile(1, None), *further):
                _write_profile(place, member, target, profile, inputs.numpy(), weights)
        _verify_profiles(place, member, target, profiles, inputs.numpy(), tolerance)
    else:
        model = legal_graph(member, target, inputs.numpy())
        save_graph(model, place / MEMBER, inline_bytes=inline_bytes_of(target))
    verify_graph(place / MEMBER, {name: inputs.numpy()}, FEATURES_NAME, wanted, target.precision, tolerance)
    if member.spec.pool.kind == "causal":
        write_decoders(place, member, target, inputs.numpy(), tolerance)
    engine = engine_from_onnx(target, place / MEMBER)
    facts = {
        "kind": engine.kind,
        "version": engine.version,
        "precision": engine.precision,
        "input": name,
        "tolerance": tolerance,
    }
    told = manifest_profiles(member.spec.stem, profiles, GOLDEN_OUTPUT, target.engine)
    if told is not None:
        facts["profiles"] = told
    (place / ENGINE).write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    if target.engine == "tensorrt-rtx":
        for path in (MEMBER, *(profile.file for profile in further)):
            write_plans(place / path, place, (target.sm or 0,))
    if target.engine == "tensorrt":
        recipe = json.dumps(recipe_for(target, place / MEMBER), indent=2, sort_keys=True) + "\n"
        (place / RECIPE).write_text(recipe, encoding="utf-8")


def _write_profile(
    place: Path, member: Transformer, target: Target, profile: Profile, inputs: np.ndarray, weights: WeightsFile
) -> None:
    """One graph of a member that has several; they share the file of weights."""
    shorter, cut = shaped(member, profile, inputs)
    cases = feeds_of(member.spec.stem.input.name, cut, profile.batch)
    model = legal_graph(shorter, target, cases, batch=profile.batch)
    weights.take(model)
    path = place / (MEMBER if profile == Profile(1, None) else profile.file)
    save_graph(model, path, inline_bytes=sys.maxsize)  # what is left of them is small


def _verify_profiles(
    place: Path,
    member: Transformer,
    target: Target,
    profiles: ProfilesSection,
    inputs: np.ndarray,
    tolerance: float,
) -> None:
    """Write the golden outputs of the shorter lengths, and hold every profile's graph to torch."""
    name = member.spec.stem.input.name
    for path, outputs in golden_outputs(member, profiles, inputs):
        np.save(place / path, outputs, allow_pickle=False)
    for profile in further_profiles(profiles):
        shorter, cut = shaped(member, profile, inputs)
        with torch.no_grad():
            wanted = shorter.sent(torch.from_numpy(cut)).numpy()
        graph = place / profile.file
        verify_graph(graph, {name: cut}, FEATURES_NAME, wanted, target.precision, tolerance, profile.batch)


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


def legal_graph(
    member: Transformer, target: Target, inputs: np.ndarray | list[dict[str, np.ndarray]], *, batch: int = 1
) -> ir.Model:
    """The member's graph, legal for the target; `inputs` prove every pass: `(cases, …)`, or feeds of whole batches."""
    lower = legalise_int8 if target.precision == "int8" else legalise
    golden = inputs if isinstance(inputs, list) else {member.spec.stem.input.name: inputs}
    return lower(member.lower("member", batch=batch), target, golden)


def verify_graph(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    output: str,
    wanted: np.ndarray,
    precision: str = "float32",
    tolerance: float = TOLERANCE,
    batch: int = 1,
) -> None:
    """Run a finished graph file in ONNX Runtime and compare it with torch, case by case.

    Raises:
        CheckFailed: beyond the tolerance, or if the graph does not run.
    """
    got = run_graph(path, inputs, output, precision, batch)
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


def run_graph(
    path: Path, inputs: Mapping[str, np.ndarray], output: str, precision: str = "float32", batch: int = 1
) -> np.ndarray:
    """An output of a graph file in ONNX Runtime, `(cases, …)`, so many at a time as its batch has.

    A float16 graph is run with every value rounded, which ONNX Runtime itself does at the end of a chain only.

    Raises:
        CheckFailed: if ONNX Runtime refuses the graph or the inputs.
    """
    import onnxruntime

    count = len(next(iter(inputs.values())))
    cases = [{name: array[list(rows)] for name, array in inputs.items()} for rows in in_batches(count, batch)]
    if precision == "float16":
        return _run_rounded(path, cases, output)[:count]
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        wanted = {value.name: types[value.type] for value in session.get_inputs()}
        rows = [
            session.run([output], {name: case[name].astype(dtype) for name, dtype in wanted.items()})[0]
            for case in cases
        ]
    except Exception as error:  # the library's exceptions share no other base
        raise CheckFailed(f"ONNX Runtime does not run it ({error})", f"graph {path}", "build again") from error
    return np.concatenate(rows)[:count]


def _run_rounded(path: Path, cases: list[dict[str, np.ndarray]], output: str) -> np.ndarray:
    model = with_rounding(ir.load(path))
    proto, weights = proto_without_weights(model)
    found = outputs_of(proto, weights, cases_of(cases, model), f"graph {path}")
    return np.concatenate([case[output] for case in found])


def copy_graphs(graphs: Artifact, device: Device, into: Path) -> None:
    """Copy one device's graphs, golden vectors and recipe into a bundle folder."""
    shutil.copytree(graphs.path / device.name, into, ignore=shutil.ignore_patterns(ENGINE))
