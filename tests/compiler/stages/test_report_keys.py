"""report.json of a real build: the keys that other tools read, and that they agree with the bundles."""

from __future__ import annotations

import json
from pathlib import Path

from coformer_runtime.bundle import open_bundle


def test_the_keys_that_other_tools_read(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert {"accuracy", "cost", "latency_ms", "policy", "seed", "versions"} <= set(report)
    assert {
        "teacher",
        "aggregated",
        "members",
        "members_untrained",
        "aggregated_untrained",
        "subsets",
    } <= set(report["accuracy"])
    assert {"flops", "params"} <= set(report["cost"]["teacher"])
    wanted = {"device", "target", "flops", "params", "engine_bytes", "wire_bytes"}
    assert all(wanted <= set(member) for member in report["cost"]["members"])
    assert {"teacher", "aggregated", "members"} <= set(report["latency_ms"])
    assert {"torch", "onnxruntime", "python", "coformer"} <= set(report["versions"])
    assert report["policy"] == json.loads((out / "policy.json").read_text())


def test_report_and_bundles_agree(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    for member in report["cost"]["members"]:
        manifest = open_bundle(str(out / "bundles" / member["device"])).manifest
        assert manifest.build == report["build"]
        assert manifest.policy == report["digests"]["policy"]
        assert manifest.target == member["target"]
        assert member["engine_bytes"] == (out / "bundles" / member["device"] / "member.onnx").stat().st_size
        assert member["wire_bytes"] == (0 if manifest.is_central else manifest.wire_bytes)
        expected = {"-".join(map(str, each.members)): each.expected_accuracy for each in manifest.aggregators}
        assert expected in ({}, report["accuracy"]["subsets"])
