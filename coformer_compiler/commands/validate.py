"""`coformerc validate`: is this build what it says it is? Needs no GPU and trusts nothing that it can check.

Per device: every file against the manifest, the graph against onnx.checker and against torch, the engine as far as
this machine goes (see engine_checks.py). For the whole: members and aggregators together against torch for every
subset, and, where all engines run here, the same over real sockets.
"""

from __future__ import annotations

import functools
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coformer_compiler.artifact import file_digest, load_artifact
from coformer_compiler.commands.build_folder import BuildFolder, open_builds
from coformer_compiler.commands.engine_checks import check_structure, engine_checks
from coformer_compiler.decomposer.policy import read_policy
from coformer_compiler.model.system import System, load_system
from coformer_compiler.stages.lower import (
    MEMBER,
    TOLERANCE,
    run_graph,
    verify_graph,
)
from coformer_compiler.stages.measure import HOST_ENGINE
from coformer_compiler.stages.rounded_graph import opened_graph
from coformer_runtime.alternatives import INDEX_NAME, index_digest, open_held
from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.decoder import Decoder
from coformer_runtime.engines import Engine
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.fitting import fit
from coformer_runtime.golden import check_golden, load_golden
from coformer_runtime.manifest import MANIFEST_NAME

WHOLE = "whole system"


@dataclass(frozen=True)
class Check:
    """One check: `failure` is None where it held, `skipped` says why it could not run."""

    device: str
    name: str
    failure: str | None = None
    skipped: str | None = None


def validate_build(out: Path, old_python: Path | None = None) -> list[Check]:
    """All checks of a build, the failed ones included.

    Args:
        out: the build's folder.
        old_python: a Python with onnx 1.8.1 for the graphs of old boards; `python3.6` on PATH where None.

    Raises:
        CoformerError: if `out` holds no build at all.
    """
    found = open_builds(out)
    checks = [
        replace(check, device=f"{build.name}: {check.device}" if build.name else check.device)
        for build in found.builds
        for check in _build_checks(build, old_python)
    ]
    if found.alternatives:
        for device, folder in found.device_folders.items():
            _attempt(checks, device, "alternatives", functools.partial(_check_held, folder, found.build))
    return checks


def _check_held(folder: Path, build: str) -> None:
    """The index vouches for the manifests; the build's own index vouches for it."""
    held = open_held(str(folder))
    if index_digest(held.listing) != build:
        raise CheckFailed(
            "it is not the index that the build wrote", str(folder / INDEX_NAME), "copy it again, or build again"
        )


def _build_checks(build: BuildFolder, old_python: Path | None) -> list[Check]:
    """All checks of one build."""
    checks: list[Check] = []
    bundles: list[Bundle] = []
    for number, (device, path) in enumerate(zip(build.devices, build.bundles, strict=True)):
        found = _attempt(checks, device, "files", functools.partial(open_bundle, str(path)))
        same = _attempt(checks, device, "manifest", functools.partial(_check_manifest, build, number))
        if isinstance(found, Bundle):
            checks += _bundle_checks(found, old_python)
            bundles += [found] if same else []
    _attempt(checks, WHOLE, "policy", lambda: _check_policy(build, bundles))
    return checks + _system_checks(build, bundles)


def _system_checks(build: BuildFolder, bundles: Sequence[Bundle]) -> list[Check]:
    torch_check, socket_check = "subsets against torch", "over sockets against torch"
    checks: list[Check] = []
    why = None
    if len(bundles) < len(build.devices):
        why = "a bundle is damaged or of another build"
    elif not build.system.is_dir():
        why = "the trained weights are gone with the build's cache; build again to compare with them"
    if why is None and not _attempt(checks, WHOLE, "trained weights", lambda: _check_trained(build)):
        why = "the trained weights to compare with are damaged"
    if why is not None:
        return [*checks, Check(WHOLE, torch_check, skipped=why), Check(WHOLE, socket_check, skipped=why)]
    system = load_system(build.system)
    _attempt(checks, WHOLE, torch_check, lambda: _check_subsets(bundles, system))
    elsewhere = [bundle.manifest for bundle in bundles if bundle.manifest.engine.kind != HOST_ENGINE]
    if elsewhere:
        kinds = ", ".join(f"{manifest.engine.kind} of '{manifest.device}'" for manifest in elsewhere)
        checks.append(Check(WHOLE, socket_check, skipped=f"{kinds} does not run on this machine"))
    else:
        _attempt(checks, WHOLE, socket_check, lambda: _check_sockets(bundles, system))
    return checks


def write_junit(path: Path, checks: Sequence[Check]) -> None:
    """Write `junit_from_checks` to a file.

    Raises:
        CoformerError: if it cannot be written.
    """
    try:
        path.write_text(junit_from_checks(checks), encoding="utf-8")
    except OSError as error:
        raise CoformerError(
            f"cannot be written ({error.strerror})", f"JUnit file {path}", "name a file in a folder that exists"
        ) from error


def junit_from_checks(checks: Sequence[Check]) -> str:
    """The checks as a JUnit XML document, one test case each."""
    suite = ET.Element(
        "testsuite",
        name="coformerc validate",
        tests=str(len(checks)),
        failures=str(sum(check.failure is not None for check in checks)),
        skipped=str(sum(check.skipped is not None for check in checks)),
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=check.device, name=check.name)
        if check.failure is not None:
            ET.SubElement(case, "failure", message=check.failure)
        if check.skipped is not None:
            ET.SubElement(case, "skipped", message=check.skipped)
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _attempt(checks: list[Check], device: str, name: str, check: Callable[[], Any]) -> Any:
    """Run one check and note how it ended; what it gave (True for nothing), or None where it failed."""
    try:
        result = check()
    except CoformerError as error:
        checks.append(Check(device, name, failure=str(error)))
        return None
    checks.append(Check(device, name))
    return True if result is None else result


def _bundle_checks(bundle: Bundle, old_python: Path | None) -> list[Check]:
    device = bundle.manifest.device
    checks: list[Check] = []
    if not _attempt(checks, device, "graph structure", lambda: check_structure(bundle)):
        return checks
    _attempt(checks, device, "graph on golden vectors", lambda: _check_graph(bundle))
    if bundle.manifest.profiles is not None:
        _attempt(checks, device, "profiles on golden vectors", lambda: _check_profiles(bundle))
    if bundle.manifest.generation is not None:
        _attempt(checks, device, "graphs of single tokens on golden vectors", lambda: _check_decoders(bundle))
    for name, check in engine_checks(bundle, old_python):
        if isinstance(check, str):
            checks.append(Check(device, name, skipped=check))
        else:
            _attempt(checks, device, name, check)
    return checks


def _check_manifest(build: BuildFolder, number: int) -> None:
    """The manifest vouches for the bundle's files; the build's index vouches for the manifest."""
    device, path = build.devices[number], build.bundles[number] / MANIFEST_NAME
    if path.is_file() and file_digest(path) == build.manifests[number]:
        return
    what = f"it is not the one of '{device}' that the build wrote"
    try:
        ours, theirs = (_flat(json.loads(p.read_text("utf-8"))) for p in (path, build.packed / device / MANIFEST_NAME))
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        first = [f"{key} is {json.dumps(ours.get(key))}, was {json.dumps(theirs.get(key))}" for key in keys]
        more = f" (and {len(first) - 3} more)" if len(first) > 3 else ""
        what += ": " + "; ".join(first[:3]) + more if first else ": written otherwise, of the same content"
    except (OSError, ValueError) as error:
        what += f" ({error})"
    raise CheckFailed(what, str(path), "copy the bundle again, or build again")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """`{"engine": {"kind": 1}}` as `{"engine.kind": 1}`."""
    if not isinstance(value, dict):
        return {path: value}
    parts = [_flat(each, f"{path}.{key}".lstrip(".")) for key, each in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def _check_policy(build: BuildFolder, bundles: Sequence[Bundle]) -> None:
    path = build.policy
    digest = read_policy(path).sha256
    for bundle in bundles:
        if bundle.manifest.policy != digest:
            raise CheckFailed(
                f"its digest is {digest[:12]}, '{bundle.manifest.device}' was built for {bundle.manifest.policy[:12]}",
                str(path),
                "build again",
            )


def _check_trained(build: BuildFolder) -> None:
    if load_artifact("boost", build.system) is None:
        raise CheckFailed("the cache entry is not what the build wrote", str(build.system), "build again")


def _check_graph(bundle: Bundle) -> None:
    """The golden vectors are torch's; the file's graph has to give them whatever engine will run it."""
    manifest = bundle.manifest
    inputs, outputs = _golden(bundle)
    verify_graph(
        Path(bundle.file(MEMBER)),
        {manifest.input.name: inputs},
        manifest.output.name,
        outputs,
        manifest.engine.precision,
        manifest.golden.tolerance,
    )


def _check_profiles(bundle: Bundle) -> None:
    """Likewise of the graphs for other shapes; their inputs are the golden ones, cut."""
    manifest = bundle.manifest
    assert manifest.profiles is not None
    inputs, _ = _golden(bundle)
    for spec in manifest.profiles.graphs:
        verify_graph(
            Path(bundle.file(spec.file)),
            {manifest.input.name: np.ascontiguousarray(inputs[..., : spec.shape[-1]])},
            manifest.output.name,
            load_golden(bundle, spec.golden, manifest.output.dtype, manifest.output.shape),
            manifest.engine.precision,
            manifest.golden.tolerance,
            spec.shape[0],
        )


def _check_decoders(bundle: Bundle) -> None:
    """The same vectors in the graphs' own precision, token by token as a generation takes them, sessions and all."""
    generation, manifest = bundle.manifest.generation, bundle.manifest
    assert generation is not None

    def opened(path: str | None) -> Engine | None:
        return None if path is None else opened_graph(Path(bundle.file(path)), manifest.engine.precision)

    source = None if generation.source is None else generation.source.graph
    step, prefill, read = (opened(each) for each in (generation.step, generation.prefill, source))
    assert step is not None
    with Decoder(step, prefill, manifest, source=read) as decoder:
        check_golden(bundle, decoder)


def _golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    manifest = bundle.manifest
    inputs = load_golden(bundle, manifest.golden.input, manifest.input.dtype, manifest.input.shape)
    return inputs, load_golden(bundle, manifest.golden.output, manifest.output.dtype, manifest.output.shape)


@torch.no_grad()
def _check_subsets(bundles: Sequence[Bundle], system: System) -> None:
    """Graphs of the members, wire and graph of the aggregator, against the trained system in torch."""
    pixels, _ = _golden(bundles[0])
    sent, due = _features(bundles, system, pixels)
    for bundle in (bundle for bundle in bundles if bundle.manifest.can_aggregate):
        _check_answer(bundle, system.aggregator(system.sent(torch.from_numpy(pixels))).numpy())
        for spec in bundle.manifest.aggregators:
            answer = system.aggregator({n: due[n] for n in spec.members}).numpy()
            feed = {f"features_{n}": sent[n] for n in spec.members}
            verify_graph(Path(bundle.file(spec.file)), feed, bundle.manifest.answer.name, answer)


def _features(
    bundles: Sequence[Bundle], system: System, pixels: np.ndarray, fitted: np.ndarray | None = None
) -> tuple[dict[int, np.ndarray], dict[int, torch.Tensor]]:
    """What the members' graphs send, and what an aggregator is due to get.

    That is what torch computes; of a member in less than float32, whose own rounding is checked beside its graph, it is
    what it sends: an aggregator may amplify that, and is to be held to float32 nevertheless. `fitted` are the inputs in
    the shape of a profile, whose graph is then run: scales of integers hang on the padding.
    """
    given = pixels if fitted is None else fitted
    sent = {
        n: run_graph(
            Path(bundle.file(_graph_for(bundle, (1, *given.shape[1:])))),
            {bundle.manifest.input.name: given},
            bundle.manifest.output.name,
            bundle.manifest.engine.precision,
        )
        for n, bundle in enumerate(bundles)
    }
    due = system.sent(torch.from_numpy(pixels))
    for n, bundle in enumerate(bundles):
        if bundle.manifest.engine.precision != "float32":
            due[n] = torch.from_numpy(sent[n])
    return sent, due


def _graph_for(bundle: Bundle, shape: tuple[int, ...]) -> str:
    """The member's graph for inputs of a shape."""
    profiles = bundle.manifest.profiles
    files = {} if profiles is None else {spec.shape: spec.file for spec in profiles.graphs}
    return files.get(shape, MEMBER)


def _check_answer(central: Bundle, wanted: np.ndarray) -> None:
    manifest = central.manifest
    assert manifest.golden.answer is not None
    answer = load_golden(central, manifest.golden.answer, manifest.answer.dtype, manifest.answer.shape)
    same = answer.shape == wanted.shape
    error = float(np.max(np.abs(answer - wanted) / (1 + np.abs(wanted)))) if same else float("inf")
    if not error <= TOLERANCE:
        raise CheckFailed(
            f"the golden answer differs from torch by {error:.1e}", central.file(manifest.golden.answer), "build again"
        )


@torch.no_grad()
def _check_sockets(bundles: Sequence[Bundle], system: System) -> None:
    pixels, _ = _golden(bundles[0])
    wanted = np.zeros((len(pixels), bundles[0].manifest.answer.shape[-1]), np.float32)
    fitted = [fit(bundles[0].manifest, pixels[n : n + 1], truncate=False).array for n in range(len(pixels))]
    for shape in {each.shape for each in fitted}:
        rows = [n for n, each in enumerate(fitted) if each.shape == shape]
        alike = np.concatenate([fitted[n] for n in rows])
        wanted[rows] = system.aggregator(_features(bundles, system, pixels[rows], alike)[1]).numpy()
    with (
        LocalCluster([bundle.directory for bundle in bundles], deadline_ms=5000) as cluster,
        cluster.client() as client,
    ):
        for case in range(len(pixels)):
            got = client.infer(pixels[case : case + 1]).logits[0]
            error = float(np.max(np.abs(got - wanted[case]) / (1 + np.abs(wanted[case]))))
            if not error <= TOLERANCE:
                raise CheckFailed(
                    f"the cluster's answer differs from torch by {error:.1e} on golden case {case}",
                    "cluster of local processes",
                    "build again",
                )
