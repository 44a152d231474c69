"""Tests of coformer_passes.check_operators."""

from __future__ import annotations

import numpy as np
import pytest

from coformer_passes.check_operators import check_operators, violations
from coformer_runtime.errors import CoformerError
from coformer_targets import load_target

RMS_NORM = "g (float[4,4] x, float[4] w) => (float[4,4] y) { y = RMSNormalization(x, w) }"


def _message(model, target) -> str:
    with pytest.raises(CoformerError) as caught:
        check_operators(model, target)
    return str(caught.value)


def test_a_legal_graph_passes_and_stays(parse, op_types, nano) -> None:
    model = parse("g (float[1,4] x) => (float[1,4] y) { a = Relu(x) y = Softmax(a) }", opset=13, ir_version=7)
    assert check_operators(model, nano) is False
    assert op_types(model) == ["Relu", "Softmax"]


def test_onnx_runtime_has_no_table(parse, cpu) -> None:
    assert check_operators(parse("g (float[n,4] x) => (float[n,4] y) { y = Mish(x) }"), cpu) is False


def test_an_operator_without_importer_names_its_pass(parse, nano) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { y = LayerNormalization(x, w) }"
    assert _message(parse(text, {"w": np.ones(4, np.float32)}), nano) == (
        "check_operators: 1 node is not legal in TensorRT 8.2.1 (jetson-nano): 'y' (LayerNormalization): no importer; "
        "LayerNormalization: run the pass decompose_layer_norm"
    )


def test_all_violations_are_listed_at_once(parse, nano) -> None:
    message = _message(parse("g (float[4,4] x) => (float[4,4] y) { a = Gelu(x) b = Trilu(a) y = Mish(b) }"), nano)
    assert message.startswith("check_operators: 3 nodes are not legal in TensorRT 8.2.1 (jetson-nano): 'a' (Gelu): ")
    assert "'b' (Trilu): no importer" in message and "'y' (Mish): no importer" in message
    assert message.endswith(
        "Gelu: run the pass decompose_gelu; Mish: write it with operators of the table, or take a newer target; "
        "Trilu: give the mask as an initializer: with static shapes the pass fold_constants does"
    )


def test_violations_are_sorted_by_operator_and_node(parse, nano) -> None:
    model = parse("g (float[4,4] x) => (float[4,4] y) { b = Trilu(x) a = Trilu(b) c = Gelu(a) y = Mish(c) }")
    assert [(each.op_type, each.node) for each in violations(model, nano)] == [
        ("Gelu", "c"),
        ("Mish", "y"),
        ("Trilu", "a"),
        ("Trilu", "b"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "g (bool[4] c, bool[4] x) => (bool[4] y) { y = Where(c, x, x) }",
            "'y' (Where): input 1 is bool, float32, float16, int32 are allowed: BOOL is refused for x and y",
        ),
        (
            "g (int32[4,4] x) => (int32[4,4] y) { y = MatMul(x, x) }",
            "'y' (MatMul): input 0 is int32, float32, float16 are allowed: INT32 is refused",
        ),
        ("g (bool[4] x) => (bool[4] y) { y = Xor(x, x) }", "'y' (Xor): no importer"),
        (
            "g (float[1,4] x, int64[1] a) => (float[?] y) { y = Squeeze(x, a) }",
            "'y' (Squeeze): input 1 ('a') is computed: axes must be an initializer",
        ),
        (
            'g (float[1,4] x, int64[4] p) => (float[?,?] y) { y = Pad<mode = "wrap">(x, p) }',
            "'y' (Pad): mode = wrap: the constant value is a scalar",
        ),
        (
            "g (float[1,1,1,8,8,8] x, float[1,1,1,1,1,1] w) => (float[?,?,?,?,?,?] y) { y = Conv(x, w) }",
            "'y' (Conv): input 0 has rank 6, 3 or 4 or 5 is allowed",
        ),
        (
            "g (uint8[1,4] x) => (float[1,4] y) { y = Cast<to = 1>(x) }",
            "'x' (input): 'x' is uint8, which the engine",
        ),
        (
            "g (float[1,4] x) => (uint8[1,4] y) { y = Cast<to = 2>(x) }",
            "'y' (Cast): 'y' is uint8, which the",
        ),
        (
            "g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }",
            "'y' (Relu): 'y' has the dynamic shape [n,4]; static shapes are needed",
        ),
    ],
)
def test_each_rule(parse, nano, text, problem) -> None:
    assert problem in _message(parse(text), nano)


def test_int64_and_double_are_what_the_parser_makes_of_them(parse, nano) -> None:
    assert not check_operators(parse("g (int64[4] x) => (int64[4] y) { y = Add(x, x) }"), nano)
    assert not check_operators(parse("g (double[4] x) => (double[4] y) { y = Exp(x) }"), nano)


def test_a_custom_domain_is_refused(parse, nano) -> None:
    model = parse("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    model.graph.opset_imports["com.microsoft"] = 1
    model.graph.node(0).domain = "com.microsoft"
    message = _message(model, nano)
    assert "'y' (Relu): the domain 'com.microsoft' is not ONNX's own" in message
    assert message.endswith(
        "; Relu: write it with ONNX's own operators, or as a function in the model, which is inlined"
    )


def test_a_constant_node_is_as_good_as_an_initializer(parse, nano) -> None:
    text = "g (float[1,4] x) => (float[4] y) { a = Constant<value_ints = [0]>() y = Squeeze(x, a) }"
    assert not check_operators(parse(text), nano)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("g (bool[4] c, bool[4] x) => (bool[4] y) { y = Where(c, x, x) }", "Where: run the pass lower_booleans"),
        ("g (int32[4,4] x) => (int32[4,4] y) { y = MatMul(x, x) }", "MatMul: cast it to float32 first"),
        ("g (uint8[1,4] x) => (float[1,4] y) { y = Cast<to = 1>(x) }", "input: run the pass widen_input"),
        ("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", "Relu: export the graph with static shapes"),
        (
            "g (float[1,4,8,8] x) => (float[?,?,?,?] y, int64[?,?,?,?] i) { y, i = MaxPool<kernel_shape = [2,2]>(x) }",
            "MaxPool: remove what reads it",
        ),
    ],
)
def test_each_violation_has_a_cure(parse, nano, text, cure) -> None:
    assert cure in _message(parse(text), nano)


@pytest.mark.parametrize(
    ("name", "text", "legal"),
    [
        ("jetson-xavier-nx", "g (float[4,4] x) => (float[4,4] y) { y = Trilu(x) }", True),
        ("jetson-xavier-nx", "g (float[2,2,4,4] x) => (float[2,2,4,4] y) { y = Trilu(x) }", False),
        ("jetson-orin-nano@jp6.0", "g (float[2,2,4,4] x) => (float[2,2,4,4] y) { y = Trilu(x) }", True),
        ("jetson-orin-nano@jp6.0", "g (float[4,4] x) => (float[4,4] y) { y = Gelu(x) }", False),
        ("jetson-orin-nano", "g (float[4,4] x) => (float[4,4] y) { y = Gelu(x) }", True),
        ("jetson-orin-nano", "g (float[4,4] x, float[4] w) => (float[4,4] y) { y = RMSNormalization(x, w) }", False),
        (
            "jetson-orin-nano@jp7.2",
            "g (float[4,4] x, float[4] w) => (float[4,4] y) { y = RMSNormalization(x, w) }",
            True,
        ),
        ("rtx-ada", "g (float[4,4] x, float[4] w) => (float[4,4] y) { y = RMSNormalization(x, w) }", True),
        ("rtx-ada", "g (float[4] x) => (uint8[4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }", False),
    ],
)
def test_each_version_has_its_own_table(parse, name, text, legal) -> None:
    assert (violations(parse(text, opset=23), load_target(name)) == []) is legal


def test_tensorrt_rtx_is_called_by_its_name(parse) -> None:
    assert " in TensorRT-RTX 1.7.1 (rtx-ada): " in _message(
        parse("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"), load_target("rtx-ada")
    )
