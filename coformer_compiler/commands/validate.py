"""`coformerc validate`: is this build what it says it is? Needs no GPU and trusts nothing that it can check.

Per device: every file against the manifest, the graph against onnx.checker and against torch. For the whole: members
and aggregators together against torch for every subset, and, where all engines run here, the same over real sockets.
"""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coformer_compiler.commands.build_folder import BuildFolder, open_build
from coformer_compiler.model.system import System, load_system
from coformer_compiler.stages.lower import MEMBER, TOLERANCE, verify_graph
from coformer_compiler.stages.measure import HOST_ENGINE
from coformer_runtime.bundle import Bundle, open_bundle
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_runtime.golden import check_bundle, load_golden


@dataclass(frozen=True)
class Check:
    """One check: `failure` is None where it held, `skipped` says why it could not run."""

    device: str
    name: str
    failure: str | None = None
    skipped: str | None = None


def validate_build(out: Path) -> list[Check]:
    """All checks of a build, the failed ones included.

    Raises:
        CoformerError: if `out` holds no build at all.
    """
    build = open_build(out)
    checks: list[Check] = []
    bundles: list[Bundle] = []
    for device, path in zip(build.devices, build.bundles, strict=True):
        found = _attempt(checks, device, "files", functools.partial(open_bundle, str(path)))
        if isinstance(found, Bundle):
            bundles.append(found)
    for bundle in bundles:
        checks += _bundle_checks(bundle, build)
    whole = "whole system"
    if len(bundles) < len(build.devices) or not build.system.is_dir():
        why = "a bundle is damaged" if len(bundles) < len(build.devices) else "the build's cache is gone"
        return [*checks, Check(whole, "subsets against torch", skipped=why), Check(whole, "over sockets", skipped=why)]
    system = load_system(build.system)
    _attempt(checks, whole, "subsets against torch", lambda: _check_subsets(bundles, system))
    if all(bundle.manifest.engine.kind == HOST_ENGINE for bundle in bundles):
        _attempt(checks, whole, "over sockets", lambda: _check_sockets(bundles, system))
    else:
        checks.append(Check(whole, "over sockets", skipped="not every member's engine runs on this machine"))
    return checks


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
    """Run one check and note how it ended; its result, or None where it failed."""
    try:
        result = check()
    except CoformerError as error:
        checks.append(Check(device, name, failure=str(error)))
        return None
    checks.append(Check(device, name))
    return result


def _bundle_checks(bundle: Bundle, build: BuildFolder) -> Iterator[Check]:
    device = bundle.manifest.device
    checks: list[Check] = []
    _attempt(checks, device, "build digest", lambda: _check_digest(bundle, build.build))
    _attempt(checks, device, "graph structure", lambda: _check_structure(bundle))
    _attempt(checks, device, "graph on golden vectors", lambda: _check_graph(bundle))
    if bundle.manifest.engine.kind == HOST_ENGINE:
        _attempt(checks, device, "engine on golden vectors", lambda: check_bundle(bundle))
    else:
        why = f"{bundle.manifest.engine.kind} does not run on this machine; the board checks it"
        checks.append(Check(device, "engine on golden vectors", skipped=why))
    yield from checks


def _check_digest(bundle: Bundle, build: str) -> None:
    if bundle.manifest.build != build:
        raise CheckFailed(
            f"it is of build {bundle.manifest.build[:12]}, the folder's is {build[:12]}",
            bundle.directory,
            "build again",
        )


def _check_structure(bundle: Bundle) -> None:
    import onnx

    for spec in bundle.manifest.files:
        if spec.path.endswith(".onnx"):
            try:
                onnx.checker.check_model(bundle.file(spec.path), full_check=True)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                raise CheckFailed(f"onnx.checker: {error}", spec.path, "build again") from error


def _check_graph(bundle: Bundle) -> None:
    """The golden vectors are torch's; the file's graph has to give them whatever engine will run it."""
    manifest = bundle.manifest
    inputs, outputs = _golden(bundle)
    verify_graph(Path(bundle.file(MEMBER)), {manifest.input.name: inputs}, manifest.output.name, outputs)


def _golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    manifest = bundle.manifest
    inputs = load_golden(bundle, manifest.golden.input, manifest.input.dtype, manifest.input.shape)
    return inputs, load_golden(bundle, manifest.golden.output, manifest.output.dtype, manifest.output.shape)


@torch.no_grad()
def _check_subsets(bundles: Sequence[Bundle], system: System) -> None:
    """Graphs of the members, wire and graph of the aggregator, against the trained system in torch."""
    central = next(bundle for bundle in bundles if bundle.manifest.is_central)
    pixels, _ = _golden(central)
    wanted = system.features(torch.from_numpy(pixels))
    sent = {n: _through_graph(bundle, pixels) for n, bundle in enumerate(bundles)}
    for spec in central.manifest.aggregators:
        answer = system.aggregator({n: wanted[n] for n in spec.members}).numpy()
        feed = {f"features_{n}": sent[n] for n in spec.members}
        verify_graph(Path(central.file(spec.file)), feed, central.manifest.answer.name, answer)


def _through_graph(bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.file(MEMBER), providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    cast = pixels if value.type == "tensor(uint8)" else pixels.astype(np.float32)
    return np.concatenate([session.run(None, {value.name: cast[n : n + 1]})[0] for n in range(len(cast))])


@torch.no_grad()
def _check_sockets(bundles: Sequence[Bundle], system: System) -> None:
    pixels, _ = _golden(bundles[0])
    wanted = system.aggregator(system.features(torch.from_numpy(pixels))).numpy()
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
