"""Members of a DeiT-B, in three widths, for every engine version: legal, checked, equal."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from coformer_passes.check_operators import violations
from coformer_passes.numerics import outputs_of, proto_without_weights
from coformer_passes.runner import legalise
from coformer_targets import Target, load_target, target_variants, with_precision

pytestmark = pytest.mark.slow
WIDTHS = {192: (3, 640), 256: (4, 1024), 320: (5, 1408)}
"""Embed dim → heads and neurons: shares of 768, 12 and 3072 that add up to the whole."""
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)


def _one_target_per_engine() -> list[str]:
    found: dict[tuple[str, str], str] = {}
    for name in target_variants():
        target = load_target(name)
        if target.engine != "onnxruntime":
            found.setdefault((target.engine, target.engine_version), name)
    return sorted(found.values())


def _features(model: ir.Model, target: Target | None) -> np.ndarray:
    proto, weights = proto_without_weights(model)
    fed = PIXELS if target is None or target.uint8_input else PIXELS.astype(np.float32)
    return outputs_of(proto, weights, [{"pixels": fed}], "test")[0]["features"]


@pytest.fixture(scope="module", params=WIDTHS)
def member(request: pytest.FixtureRequest, transformer) -> tuple[ir.Model, np.ndarray]:
    heads, neurons = WIDTHS[request.param]
    model = transformer(layers=12, embed=request.param, heads=heads, head_dim=64, mlp=neurons, image=224, patch=16)
    return model, _features(model, None)


@pytest.mark.parametrize("name", _one_target_per_engine())
def test_a_member_is_legal_and_equal_in_float32(member, name) -> None:
    model, expected = member
    target = load_target(name)
    legal = legalise(model, target, {"pixels": PIXELS})
    assert violations(legal, target) == []
    onnx.checker.check_model(proto_without_weights(legal)[0], full_check=True)
    assert np.abs(_features(legal, target) - expected).max() <= 1e-4


@pytest.mark.parametrize("name", _one_target_per_engine())
def test_a_member_is_legal_in_float16_and_within_one_percent(member, name) -> None:
    target = with_precision(load_target(name), "float16")
    legal = legalise(member[0], target, {"pixels": PIXELS})  # compares, rounded after every node
    assert violations(legal, target) == []
    onnx.checker.check_model(proto_without_weights(legal)[0], full_check=True)
