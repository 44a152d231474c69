"""Tests of coformer_passes.operator_rules: each predicate on a node that breaks it, and on one that does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from coformer_passes.check_operators import check_operators, violations_of
from coformer_passes.operator_rules import CHECKS
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target, operator_table_of
from coformer_targets.table_versions import table_versions

ONE, TWO = np.ones(1, np.int64), np.ones(2, np.int64)
IF = """g (bool c, float[2,3] x) => (float[?,?] y) {{ y = If (c) <
    then_branch = t () => (float[2,3] {then}) {{ {then} = Relu(x) }},
    else_branch = e () => ({shape} {other}) {{ {other} = {op} }}> }}"""
LOOP = """g (int64 n, bool c, float[2] x) => (float[?] y) {{ y = Loop (n, c, x) <
    body = b (int64 i, bool go, float[2] a) => (bool on, {shape} z) {{ on = Identity(go) z = {op} }}> }}"""
LSTM = (
    "g (float[4,1,8] x, float[2,32,8] w, float[2,32,8] r) => (float[4,2,1,8] y) "
    '{{ y = LSTM<hidden_size = 8, direction = "bidirectional"{more}>(x, w, r) }}'
)
RNN = (
    "g (float[4,1,8] x, float[2,8,8] w, float[2,8,8] r) => (float[4,2,1,8] y) "
    '{{ y = RNN<hidden_size = 8, direction = "bidirectional", activations = ["Tanh", "{second}"]>(x, w, r) }}'
)
ATTENTION = "g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) {{ y = Attention{more} }}"
CACHED = (
    "g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v, float[1,2,3,8] pk, float[1,2,3,8] pv) => "
    "(float[1,2,4,8] y, float[1,2,7,8] nk, float[1,2,7,8] nv) { y, nk, nv = Attention(q, k, v, , pk, pv) }"
)
POOL = (
    "g (float[1,1,8,8] x) => (float[?,?,?,?] y) {{ y = AveragePool<kernel_shape = [2,2], dilations = [{n},{n}]>(x) }}"
)
QUANTISE = "g (float[4] x) => (int8[4] y) { y = QuantizeLinear(x, s, z) }"
RESIZE = "g (float[1,1,4,4] x) => (float[?,?,?,?] y) {{ y = Resize<{more}>(x, , s) }}"
DEFORM = (
    "g (float[1,1,4,4] x, float[1,1,2,2] w, float[1,8,{out}] o) => (float[?,?,?,?] y) "
    "{{ y = DeformConv<kernel_shape = [2,2], pads = [{pads}]>(x, w, o) }}"
)
TOPK = "g (float[1,5000] x{more}) => (float[?,?] y, int64[?,?] i) {{ y, i = TopK<sorted = {sorted}>(x, k) }}"
EINSUM = 'g (float[2,3] x, float[{n},4] z) => (float[?,?] y) {{ y = Einsum<equation = "{equation}">(x, z) }}'
SCATTER = "g (float[1,{h}8,4] p, float[1,{h}1,4] u, int64[1] w) => (float[1,{h}8,4] y) {{ y = TensorScatter(p, u, w) }}"

CASES = [
    ("attention_form", ATTENTION.format(more="<softcap = 2.0>(q, k, v)"), {}, "it has a softcap"),
    ("attention_form", ATTENTION.format(more="<softmax_precision = 1>(q, k, v)"), {}, "it says a softmax_precision"),
    ("attention_form", CACHED, {}, "it has the input past_key"),
    ("attention_form", CACHED, {}, "its output present_value is read"),
    (
        "attention_form",
        ATTENTION.format(more="(q, k, v, m)"),
        {"m": np.zeros((4, 4), np.float32)},
        "the mask has rank 2",
    ),
    ("attention_form", ATTENTION.format(more="(q, k, v)"), {}, None),
    (
        "branch_names",
        IF.format(then="a", other="a", op="Neg(x)", shape="float[2,3]"),
        {},
        "both branches have an output 'a'",
    ),
    ("branch_names", IF.format(then="a", other="b", op="Neg(x)", shape="float[2,3]"), {}, None),
    (
        "branch_ranks",
        IF.format(then="a", other="b", op="Flatten<axis = 0>(x)", shape="float[1,6]"),
        {},
        None,
    ),
    (
        "branch_ranks",
        IF.format(then="a", other="b", op="Squeeze(k)", shape="float[6]").replace("float[?,?] y", "float y"),
        {"k": np.zeros((1, 6), np.float32)},
        "output 0 has rank 2 in one branch and 1 in the other",
    ),
    (
        "branch_shapes",
        IF.format(then="a", other="b", op="Flatten<axis = 0>(x)", shape="float[1,6]"),
        {},
        "output 0 is [2, 3] in one branch and [1, 6] in the other",
    ),
    ("branch_shapes", IF.format(then="a", other="b", op="Neg(x)", shape="float[2,3]"), {}, None),
    (
        "clip_bounds",
        "g (int8[4] x, int8 low) => (int8[4] y) { y = Clip(x, low) }",
        {},
        "min or max is computed, and input 0 is int8",
    ),
    ("clip_bounds", "g (float[4] x, float low) => (float[4] y) { y = Clip(x, low) }", {}, None),
    ("clip_bounds", "g (int8[4] x) => (int8[4] y) { y = Clip(x, low) }", {"low": np.zeros((), np.int8)}, None),
    ("deform_conv", DEFORM.format(pads="1,1,0,0", out="4,4"), {}, "pads = [1, 1, 0, 0] are not symmetric"),
    ("deform_conv", DEFORM.format(pads="1,1,1,1", out="5,5"), {}, None),
    (
        "dense_constant",
        'g () => (string y) { y = Constant<value_string = "a">() }',
        {},
        "it has a value_string",
    ),
    ("dense_constant", "g () => (float y) { y = Constant<value_float = 1.0>() }", {}, None),
    ("dilations_of_one", POOL.format(n=2), {}, "dilations = [2, 2]"),
    ("dilations_of_one", POOL.format(n=1), {}, None),
    (
        "einsum_equation",
        EINSUM.format(n=4, equation="...ij,...kj->...ik").replace("float[4,4] z", "float[5,3] z"),
        {},
        "the equation '...ij,...kj->...ik' has an ellipsis",
    ),
    (
        "einsum_equation",
        EINSUM.format(n=3, equation="iJ,Jk->ik"),
        {},
        "the equation 'iJ,Jk->ik' has other letters than a to z",
    ),
    (
        "einsum_equation",
        EINSUM.format(n=4, equation="ij,kk->ik"),
        {},
        "the equation 'ij,kk->ik' repeats an index within 'kk'",
    ),
    (
        "einsum_equation",
        EINSUM.format(n=1, equation="ij,jk->ik"),
        {},
        "the equation 'ij,jk->ik' broadcasts 'j' over 1 and 3",
    ),
    ("einsum_equation", EINSUM.format(n=3, equation="ij, jk -> ik"), {}, None),
    (
        "first_of_static_shape",
        "g (float[n,4] x) => (float[n,4] y) { y = EyeLike(x) }",
        {},
        "the shape of input 0 ('x')",
    ),
    ("first_of_static_shape", "g (float[4,4] x) => (float[4,4] y) { y = EyeLike(x) }", {}, None),
    (
        "float_ranges_of_constants",
        "g (float n) => (float[?] y) { y = Range(a, n, d) }",
        {"a": np.zeros((), np.float32), "d": np.ones((), np.float32)},
        "input 1 ('n') is computed, and is float",
    ),
    (
        "float_ranges_of_constants",
        "g (int64 n) => (int64[?] y) { y = Range(a, n, d) }",
        {"a": np.zeros((), np.int64), "d": np.ones((), np.int64)},
        None,
    ),
    (
        "loop_shapes",
        LOOP.format(shape="float[4]", op="Concat<axis = 0>(a, a)"),
        {},
        "carried value 0 is [2] before a round and [4] behind it",
    ),
    ("loop_shapes", LOOP.format(shape="float[2]", op="Relu(a)"), {}, None),
    ("lstm_form", LSTM.format(more=", input_forget = 1"), {}, "input_forget = 1"),
    ("lstm_form", LSTM.format(more=""), {}, None),
    (
        "matrix_of_static_shape",
        "g (float[n,4] x) => (float[n,4] y) { y = EyeLike(x) }",
        {},
        "the shape of input 0 ('x')",
    ),
    ("matrix_of_static_shape", "g (float[3,4] x) => (float[3,4] y) { y = EyeLike(x) }", {}, None),
    ("mod_of_integers", "g (float[4] x) => (float[4] y) { y = Mod(x, x) }", {}, "fmod = 0, and input 0 is float"),
    ("mod_of_integers", "g (float[4] x) => (float[4] y) { y = Mod<fmod = 1>(x, x) }", {}, None),
    ("mod_of_integers", "g (int32[4] x) => (int32[4] y) { y = Mod(x, x) }", {}, None),
    (
        "no_training",
        "g (float[4] x, bool t) => (float[4] y) { y = Dropout(x, , t) }",
        {},
        "training_mode is computed",
    ),
    (
        "no_training",
        "g (float[4] x) => (float[4] y) { y = Dropout(x, , t) }",
        {"t": np.array(True)},
        "training_mode is true",
    ),
    ("no_training", "g (float[4] x) => (float[4] y) { y = Dropout(x, , t) }", {"t": np.array(False)}, None),
    ("rank_of_two_or_more", "g (float[4] x) => (float[4] y) { y = Trilu(x) }", {}, "input 0 has rank 1"),
    ("rank_of_two_or_more", "g (float[4,4] x) => (float[4,4] y) { y = Trilu(x) }", {}, None),
    (
        "real_signal",
        "g (float[1,16,2] x) => (float[?,?,?,?] y) { y = STFT<onesided = 0>(x, s, , l) }",
        {"s": np.array(4), "l": np.array(8)},
        "input 0 is [1, 16, 2]: its last axis holds complex numbers",
    ),
    (
        "real_signal",
        "g (float[1,16,1] x) => (float[?,?,?,?] y) { y = STFT(x, s, , l) }",
        {"s": np.array(4), "l": np.array(8)},
        None,
    ),
    (
        "resize_form",
        RESIZE.format(more='mode = "linear", antialias = 1'),
        {"s": np.ones(4, np.float32)},
        "antialias = 1",
    ),
    (
        "resize_form",
        RESIZE.format(more='mode = "linear", axes = [2, 3]'),
        {"s": np.ones(2, np.float32)},
        "axes = [2, 3] of 4",
    ),
    (
        "resize_form",
        RESIZE.format(more='mode = "linear", keep_aspect_ratio_policy = "not_larger"').replace(
            "(x, , s)", "(x, , , n)"
        ),
        {"n": np.array([1, 1, 4, 8])},
        "keep_aspect_ratio_policy = not_larger",
    ),
    (
        "resize_form",
        RESIZE.format(more='mode = "linear", antialias = 0, axes = [0, 1, 2, 3]'),
        {"s": np.ones(4, np.float32)},
        None,
    ),
    (
        "same_activations",
        RNN.format(second="Relu"),
        {},
        "activations = ['Tanh', 'Relu'] differ between the directions",
    ),
    ("same_activations", RNN.format(second="Tanh"), {}, None),
    (
        "scalar_padding",
        "g (float[4] x, float[2] v) => (float[?] y) { y = Pad(x, p, v) }",
        {"p": np.array([1, 1])},
        "the value that is filled in is [2]",
    ),
    ("scalar_padding", "g (float[4] x, float v) => (float[?] y) { y = Pad(x, p, v) }", {"p": np.array([1, 1])}, None),
    ("tensor_scatter_form", SCATTER.format(h=""), {}, "past_cache has rank 3"),
    (
        "tensor_scatter_form",
        SCATTER.format(h="2,").replace("TensorScatter(", "TensorScatter<axis = -1>(").replace("2,1,4] u", "2,8,1] u"),
        {},
        "axis = -1",
    ),
    ("tensor_scatter_form", SCATTER.format(h="2,"), {}, None),
    ("topk_limit", TOPK.format(more="", sorted=1), {"k": np.array([4000])}, "K = 4000"),
    ("topk_limit", TOPK.format(more="", sorted=0), {"k": np.array([4])}, "sorted = 0"),
    ("topk_limit", TOPK.format(more=", int64[1] k", sorted=1), {}, "K is not known"),
    ("topk_limit", TOPK.format(more="", sorted=1), {"k": np.array([3839])}, None),
    (
        "uint8_with_floats",
        "g (uint8[4] x) => (int32[4] y) { y = Cast<to = 6>(x) }",
        {},
        "it casts uint8 to int32",
    ),
    ("uint8_with_floats", "g (bool[4] x) => (uint8[4] y) { y = Cast<to = 2>(x) }", {}, "it casts bool to uint8"),
    ("uint8_with_floats", "g (uint8[4] x) => (float[4] y) { y = Cast<to = 1>(x) }", {}, None),
    (
        "zero_points",
        QUANTISE,
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8)},
        "its zero point is not 0",
    ),
    (
        "zero_points",
        QUANTISE.replace("float[4] x", "float[4] x, int8 z"),
        {"s": np.array(0.1, np.float32)},
        "its zero point is computed",
    ),
    ("zero_points", QUANTISE, {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}, None),
]


def read(text: str, arrays: dict[str, np.ndarray]) -> ir.Model:
    """Without strict inference: some of what is wrong is wrong for it, too."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 24]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


@pytest.mark.parametrize(("name", "text", "arrays", "problem"), CASES)
def test_each_rule(name: str, text: str, arrays: dict[str, np.ndarray], problem: str | None) -> None:
    found = list(CHECKS[name](read(text, arrays).graph.node(-1)))
    if problem is None:
        assert found == []
    else:
        assert any(what.startswith(problem) for what, _ in found), found
        assert all(cure for _, cure in found)


def test_k_of_one_value() -> None:
    """ONNX's own inference refuses two: the node is made by hand."""
    node = read(TOPK.format(more="", sorted=1), {"k": ONE}).graph.node(0)
    assert list(CHECKS["one_k"](node)) == []
    node.inputs[1].const_value = ir.tensor(TWO, name="k")
    assert list(CHECKS["one_k"](node)) == [("K has 2 values", "give K as one value")]


def test_positions_of_a_rotary_embedding() -> None:
    """ONNX knows int64 alone: the type is changed by hand."""
    text = (
        "g (float[1,2,4,8] x, float[9,4] c, float[9,4] s, int64[1,4] p) => (float[1,2,4,8] y) "
        "{ y = RotaryEmbedding(x, c, s, p) }"
    )
    node = read(text, {}).graph.node(0)
    assert list(CHECKS["rotary_positions"](node)) == []
    node.inputs[3].dtype = ir.DataType.INT32
    assert list(CHECKS["rotary_positions"](node)) == [("input 3 is int32", "cast the positions to int64 first")]


@pytest.mark.parametrize("name", ["mod_of_integers", "uint8_with_floats", "float_ranges_of_constants", "clip_bounds"])
def test_a_type_that_is_not_known(name: str) -> None:
    text = next(text for each, text, _, problem in CASES if each == name and problem)
    arrays = next(arrays for each, _, arrays, problem in CASES if each == name and problem)
    node = read(text, arrays).graph.node(0)
    for value in node.inputs:
        value.type = None
    assert any(what.startswith("the type of input ") for what, _ in CHECKS[name](node))


@pytest.mark.parametrize(
    ("name", "index"),
    [("attention_form", 1), ("deform_conv", 0), ("einsum_equation", 1), ("rank_of_two_or_more", 0), ("real_signal", 0),
     ("scalar_padding", 2), ("tensor_scatter_form", 1)],
)  # fmt: skip
def test_a_shape_that_is_not_known(name: str, index: int) -> None:
    text, arrays = next((text, arrays) for each, text, arrays, problem in CASES if each == name and problem is None)
    node = read(text, arrays).graph.node(0)
    value = node.inputs[index]
    value.shape = None
    assert (
        f"the shape of input {index} ('{value.name}') is not known",
        "export the graph with static shapes, so that infer_shapes knows them",
    ) in list(CHECKS[name](node))


def test_the_tables_and_the_predicates_know_each_other() -> None:
    named = set()
    for engine in ("tensorrt", "tensorrt-rtx"):
        for version in table_versions(engine):
            table = operator_table_of(engine, version, "test")
            assert table is not None
            for op_type, rule in table.operators.items():
                named |= set(rule.checks)
                assert rule.rule or not rule.checks, (version, op_type)
    assert named == set(CHECKS)


@pytest.mark.parametrize(
    ("target", "text", "arrays", "message"),
    [
        (
            "jetson-nano",
            EINSUM.format(n=5, equation="...ij,...kj->...ik").replace("float[5,4] z", "float[5,3] z"),
            {},
            "check_operators: 1 node is not legal in TensorRT 8.2.1 (jetson-nano): 'y' (Einsum): the equation "
            "'...ij,...kj->...ik' has an ellipsis: lower-case letters only; no ellipsis, no repeated index in one "
            "operand, no broadcasting; Einsum: write it as Transpose, Reshape and MatMul",
        ),
        (
            "jetson-orin-nano@jp7.2",
            TOPK.format(more="", sorted=0),
            {"k": np.array([4000])},
            "check_operators: 2 nodes are not legal in TensorRT 10.16.2 (jetson-orin-nano@jp7.2): 'y' (TopK): "
            "K = 4000: sorted = 1, K below 3840; 'y' (TopK): sorted = 0: sorted = 1, K below 3840; "
            "TopK: ask for fewer than 3840; TopK: export it with sorted = 1",
        ),
    ],
)
def test_node_version_rule_and_cure_are_told(
    target: str, text: str, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(CoformerError) as caught:
        check_operators(read(text, arrays), load_target(target))
    assert str(caught.value) == message


def test_a_type_or_a_shape_that_is_lost_is_a_violation() -> None:
    """Where it is lost, and where a rule needs it; not at every node behind."""
    table = operator_table_of("tensorrt", "8.2.1", "test")
    assert table is not None
    model = read(
        "g (float[4,4] x) => (float[4,4] y) { a = Relu(x) b = Neg(a) y = Gemm(b, w) }", {"w": np.eye(4, dtype="f")}
    )
    assert violations_of(model, table) == []
    a, b = model.graph.node(0).outputs[0], model.graph.node(1).outputs[0]
    a.shape = None
    b.shape = None
    found = [(each.node, each.problem) for each in violations_of(model, table)]
    assert found == [
        ("y", "the shape of input 0 ('b') is not known"),
        ("a", "the type or shape of 'a' is not known"),
    ]
    a.shape, a.type = ir.Shape((4, 4)), None
    b.shape = ir.Shape((4, 4))
    found = [(each.node, each.problem) for each in violations_of(model, table)]
    assert found == [("b", "the type of input 0 ('a') is not known"), ("a", "the type or shape of 'a' is not known")]


def test_a_patch_goes_by_the_table_of_its_minor_version() -> None:
    nano = dataclasses.replace(load_target("jetson-nano"), engine_version="8.2.3")
    text = "g (float[4,4] x) => (float[4,4] y) { y = Trilu(x) }"
    with pytest.raises(CoformerError, match=r"not legal in TensorRT 8.2.1 \(jetson-nano\): 'y' \(Trilu\): no importer"):
        check_operators(read(text, {}), nano)
