"""Tests of coformer_passes.to_float16."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from coformer_passes.graph_files import save_graph
from coformer_passes.numerics import computes_in_halves, relative_difference, with_rounding
from coformer_passes.pipeline import TOLERANCES
from coformer_passes.runner import PassRecord, legalise
from coformer_passes.to_float16 import islands_of, to_float16, write_halves
from coformer_runtime.errors import CheckFailed, CoformerError
from coformer_targets import Target, load_target, with_precision
from coformer_targets.tensorrt_rtx import rtx_is_installed, write_plans

TARGETS = ("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano@jp6.0", "jetson-orin-nano", "rtx-ada")


@pytest.fixture(scope="module")
def half() -> Target:
    return with_precision(load_target("jetson-nano"), "float16")


def _types(model: ir.Model) -> dict[str, str]:
    return {str(node.name): node.outputs[0].dtype.name for node in model.graph}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [{}, {"qk_norm": True, "shortcut": True}, {"activation": "tanh", "pool": "mean"}])
def test_a_transformer_stays_within_one_percent(transformer, name, shape) -> None:
    model = transformer(layers=3, **shape)
    golden = {"pixels": np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)}
    records: list[PassRecord] = []
    legal = legalise(model, with_precision(load_target(name), "float16"), golden, record=records.append)
    (record,) = (each for each in records if each.name == "to_float16")
    assert record.modified and record.difference is not None and record.difference < TOLERANCES[to_float16] == 1e-2
    types = {node.op_type: node.outputs[0].dtype.name for node in legal.graph if node.op_type != "Cast"}
    assert types["MatMul"] == types["Conv"] == "FLOAT16" and types["Softmax"] == "FLOAT"
    assert {types.get("LayerNormalization", "FLOAT"), types.get("Sqrt", "FLOAT")} == {"FLOAT"}
    assert legal.graph.outputs[0].dtype == ir.DataType.FLOAT
    big = [value for value in legal.graph.initializers.values() if value.const_value.size > 200]
    assert big and all(value.dtype == ir.DataType.FLOAT16 for value in big)


def _with_outliers(model: ir.Model) -> ir.Model:
    """The massive activations of trained transformers: two channels of the stream thousands of times the others."""
    positions = model.graph.initializers["positions"]
    array = positions.const_value.numpy().copy()
    array[:, :, 3], array[:, :, 17] = 3000.0, -2500.0
    positions.const_value = ir.tensor(array, name="positions")
    return model


def test_outliers_break_a_graph_without_islands_and_not_one_with_them(
    transformer: Callable[..., ir.Model], outputs: Callable[..., list[np.ndarray]], half: Target
) -> None:
    model = _with_outliers(transformer(layers=3))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    plain = legalise(model, load_target("jetson-nano"), {"pixels": pixels})
    feed = {"pixels": pixels.astype(np.float32)}
    expected = {"features": outputs(plain, **feed)[0]}

    def difference(choose) -> float:
        graph = plain.clone()
        assert write_halves(graph, choose)
        return relative_difference([expected], [{"features": outputs(with_rounding(graph), **feed)[0]}])[0]

    assert difference(lambda graph: set()) > 0.05
    assert difference(islands_of) < 1e-2
    assert computes_in_halves(legalise(model, half, {"pixels": pixels}))


EVERY_GENERATION = ("jetson-nano", "jetson-xavier-nx", "jetson-orin-nano@jp6.0", "jetson-orin-nano",
                    "jetson-orin-nano@jp7.2", "rtx-ada")  # fmt: skip
ATTENTION = """g (float[1,2,6,16] q, float[1,2,16,6] k, float[1,2,6,16] v) => (float[1,2,6,16] y)
    {{ s = MatMul(q, k) {mask} w = Softmax(m) y = MatMul(w, v) }}"""


@pytest.mark.parametrize("name", EVERY_GENERATION)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_halves_but_for_its_softmax(parse, name: str, masked: bool) -> None:
    """The form that fuses, and whose scores accumulate in float32: both products in halves, two Casts, nothing else."""
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    text = ATTENTION.format(mask="m = Add(s, mask)") if masked else ATTENTION.format(mask="").replace("(m)", "(s)")
    model = parse(text, {"mask": mask} if masked else {}, opset=13, ir_version=7)
    assert to_float16(model, with_precision(load_target(name), "float16"))
    inner = [f"{node.op_type} {node.outputs[0].dtype.name}" for node in model.graph]
    assert [each for each in inner if not each.startswith("Cast")] == [
        "MatMul FLOAT16", *(["Add FLOAT16"] if masked else []), "Softmax FLOAT", "MatMul FLOAT16",
    ]  # fmt: skip
    first = inner.index("MatMul FLOAT16")
    between = inner[first : inner.index("MatMul FLOAT16", first + 1)]
    softmax = between.index("Softmax FLOAT")
    assert between[softmax - 1] == "Cast FLOAT" and between[softmax + 1] == "Cast FLOAT16"
    limited = [value.const_value.numpy() for value in model.graph.initializers.values()]
    assert all(np.isfinite(array).all() and array.min() == -30000 for array in limited) and len(limited) == masked


@pytest.mark.skipif(not rtx_is_installed(), reason="tensorrt_rtx is not installed (pip install tensorrt-rtx-cu12)")
@pytest.mark.parametrize("masked", [False, True])
def test_the_casts_do_not_keep_tensorrt_from_fusing(parse, tmp_path: Path, masked: bool) -> None:
    """One kernel for both products and the softmax; the Casts make its scores accumulate in float32."""
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    text = ATTENTION.format(mask="m = Add(s, mask)") if masked else ATTENTION.format(mask="").replace("(m)", "(s)")
    target = with_precision(load_target("rtx-ada"), "float16")
    found = {}
    for form, choose in (("island", islands_of), ("halves", lambda graph: set())):
        model = parse(text, {"mask": mask} if masked else {})
        assert write_halves(model, choose)
        save_graph(model, tmp_path / "attention.onnx")
        write_plans(tmp_path / "attention.onnx", tmp_path, (target.sm or 0,))
        (plan,) = tmp_path.glob("*.plan")
        found[form] = plan.read_bytes()
    assert all(b"_gemm_mha_v2" in plan for plan in found.values())
    scores = {form: set(re.findall(rb"Kernel_traits_v2<\s*fmha::(\w+),", plan)) for form, plan in found.items()}
    assert scores == {"island": {b"Ampere_hmma_fp32_traits"}, "halves": {b"Ampere_hmma_fp16_traits"}}


@pytest.mark.parametrize("name", ["jetson-orin-nano", "rtx-ada"])
@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_that_fuses_stays_within_one_percent(transformer, name, outliers, qk_norm) -> None:
    """Heads of 16, with massive activations too, every value between rounded to halves."""
    model = transformer(layers=3, heads=2, head_dim=16, qk_norm=qk_norm)
    model = _with_outliers(model) if outliers else model
    golden = {"pixels": np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)}
    records: list[PassRecord] = []
    legal = legalise(model, with_precision(load_target(name), "float16"), golden, record=records.append)
    (record,) = (each for each in records if each.name == "to_float16")
    assert record.difference is not None and record.difference < 1e-2
    products = [node for node in legal.graph if node.op_type == "MatMul"]
    assert {node.outputs[0].dtype for node in products} == {ir.DataType.FLOAT16}


def test_a_score_beyond_the_halves_is_seen_by_the_runner(parse) -> None:
    """The scores are halves in front of the island: it does not save them, and the golden inputs show it."""
    model = parse(ATTENTION.format(mask="").replace("(m)", "(s)"), opset=13, ir_version=7)
    golden = [{"q": np.full((1, 2, 6, 16), 100, np.float32), "v": np.ones((1, 2, 6, 16), np.float32),
               "k": np.linspace(90, 100, 192, dtype=np.float32).reshape(1, 2, 16, 6)}]  # fmt: skip
    with pytest.raises(CheckFailed, match=r"^to_float16: output 'y' differs by inf of its magnitude, 1e-02 is allowed"):
        legalise(model, with_precision(load_target("jetson-orin-nano"), "float16"), golden)


def test_float32_needs_nothing_and_a_second_run_changes_nothing(parse, half) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }"
    model = parse(text, {"w": np.eye(4, dtype=np.float32)}, opset=13, ir_version=7)
    assert not to_float16(model, load_target("jetson-nano"))
    assert to_float16(model, half)
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "Cast"]
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (ir.DataType.FLOAT, ir.DataType.FLOAT)
    assert not to_float16(model, half)


def test_a_norm_that_is_written_out_is_one_island(parse, half) -> None:
    model = parse(
        """g (float[1,4,8] x) => (float[1,4,8] y) {
            h = MatMul(x, w) mean = ReduceMean(h, axes) centred = Sub(h, mean) square = Pow(centred, two)
            variance = ReduceMean(square, axes) shifted = Add(variance, epsilon) root = Sqrt(shifted)
            normal = Div(centred, root) scaled = Mul(normal, gain) z = MatMul(scaled, w) y = Add(z, h)
        }""",
        {
            "w": np.eye(8, dtype=np.float32),
            "axes": np.array([-1]),
            "two": np.array(2, np.float32),
            "epsilon": np.array(1e-6, np.float32),
            "gain": np.ones(8, np.float32),
        },
        opset=18,
    )
    for node in model.graph:
        node.name = node.outputs[0].name
    assert to_float16(model, half)
    types = _types(model)
    for name in ("mean", "centred", "square", "variance", "shifted", "root", "normal"):
        assert types[name] == "FLOAT", name
    for name in ("h", "scaled", "z", "y"):
        assert types[name] == "FLOAT16", name


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min, -1e9])
def test_a_mask_is_finite_and_means_the_same(parse, outputs, half, lowest) -> None:
    mask = np.triu(np.full((4, 4), lowest, np.float32), 1)
    model = parse("g (float[4,4] x) => (float[4,4] y) { s = Add(x, mask) y = Softmax(s) }", {"mask": mask}, opset=13)
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32) * 20
    before = outputs(model, x=x)[0]
    assert to_float16(model, half)
    np.testing.assert_allclose(outputs(model, x=x)[0], before, atol=5e-3)
    masks = [value.const_value.numpy() for name, value in model.graph.initializers.items() if name.startswith("mask")]
    assert len(masks) == 1 and np.isfinite(masks[0]).all() and masks[0].min() == -30000


def test_a_constant_beyond_the_halves_stays_single(parse, outputs, half) -> None:
    model = parse(
        "g (float[1,4] x) => (float[1,4] y) { a = Mul(x, big) b = Mul(a, small) y = Relu(b) }",
        {"big": np.array([1e6], np.float32), "small": np.array([1e-6], np.float32)},
    )
    x = np.array([[1, -2, 3, 4]], np.float32)
    assert to_float16(model, half)
    np.testing.assert_allclose(outputs(model, x=x)[0], np.maximum(x, 0), rtol=1e-2)


def test_the_scales_of_a_resize_stay(parse, outputs, half) -> None:
    text = """g (float[1,1,2,2] x) => (float[1,1,4,4] y) { y = Resize<mode = "nearest">(x, , scales) }"""
    model = parse(text, {"scales": np.array([1, 1, 2, 2], np.float32)}, opset=13, ir_version=7)
    assert to_float16(model, half)
    assert model.graph.initializers["scales"].dtype == ir.DataType.FLOAT
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_control_flow_is_refused(parse, half) -> None:
    model = parse(
        """g (bool c, float[4] x) => (float[4] y) {
            y = If (c) <
                then_branch = t () => (float[4] a) { a = Relu(x) },
                else_branch = e () => (float[4] b) { b = Neg(x) }
            >
        }"""
    )
    with pytest.raises(CoformerError) as caught:
        to_float16(model, half)
    assert str(caught.value) == (
        "to_float16: node 'y' (If) holds a graph of its own; "
        "leave the precision float32, or export the graph without control flow"
    )
