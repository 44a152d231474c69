"""`coformerc bench`: latency of a finished build on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.commands.build_folder import BuildFolder, open_builds
from coformer_compiler.stages.lower import GOLDEN_INPUT, MEMBER
from coformer_compiler.stages.measure import HOST_ENGINE, cluster_latency, engine_latency
from coformer_runtime.bundle import open_bundle


def bench_build(out: Path) -> dict[str, Any]:
    """Median and 95th percentile of each member's engine and of whole requests; of alternatives one after the other.

    Null where an engine cannot run here.
    """
    found = open_builds(out)
    if not found.alternatives:
        return _bench(found.start)
    return {"build": found.build, "alternatives": {build.name: _bench(build) for build in found.builds}}


def _bench(build: BuildFolder) -> dict[str, Any]:
    manifests = [open_bundle(str(bundle)).manifest for bundle in build.bundles]
    pixels = np.load(build.bundles[0] / GOLDEN_INPUT)[:1]
    here = [manifest.engine.kind == HOST_ENGINE for manifest in manifests]
    members = {
        device: asdict(engine_latency(bundle / MEMBER, pixels)) if runs else None
        for device, bundle, runs in zip(build.devices, build.bundles, here, strict=True)
    }
    whole = cluster_latency(build.bundles, pixels)[0] if all(here) else None
    return {"build": build.build, "members_ms": members, "aggregated_ms": None if whole is None else asdict(whole)}
