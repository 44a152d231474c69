"""Tests of coformer_passes.rewriting."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from coformer_passes.rewriting import (
    add_initializer,
    array_of,
    bypass,
    drop_unused_initializers,
    only_consumer,
    scalar_of,
    set_constant,
    static_shape,
    take_over,
)


def test_constants_are_initializers_and_constant_nodes(parse) -> None:
    model = parse(
        "g (float[1] x) => (float[1] y) { two = Constant<value_float = 2.0>() h = Mul(x, two) y = Add(h, one) }",
        {"one": np.ones(1, np.float32)},
    )
    assert scalar_of(model.graph.node(0).outputs[0]) == 2.0 and scalar_of(model.graph.initializers["one"]) == 1.0
    assert array_of(model.graph.inputs[0]) is None and array_of(None) is None


def test_a_default_of_an_input_is_no_constant(parse) -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = Add(x, c) }", {"c": np.ones(1, np.float32)})
    model.graph.inputs.append(model.graph.initializers["c"])
    assert array_of(model.graph.initializers["c"]) is None


def test_equal_names_get_a_number(parse) -> None:
    graph = parse("g (float[1] x) => (float[1] y) { y = Relu(x) }").graph
    names = [add_initializer(graph, "c", np.ones(1)).name for _ in range(3)]
    assert names == ["c", "c.2", "c.3"]


def test_a_constant_that_others_read_is_not_changed(parse) -> None:
    model = parse("g (float[1] x) => (float[1] y) { h = Add(x, c) y = Mul(h, c) }", {"c": np.ones(1, np.float32)})
    set_constant(model.graph.node(0), 1, np.zeros(1, np.float32))
    assert [scalar_of(node.inputs[1]) for node in model.graph] == [0.0, 1.0]


def test_only_one_consumer_counts(parse) -> None:
    model = parse("g (float[1] x) => (float[1] y, float[1] h) { h = Relu(x) y = Neg(h) }")
    assert only_consumer(model.graph.inputs[0]) is model.graph.node(0)
    assert only_consumer(model.graph.node(0).outputs[0]) is None


def test_static_shapes(parse) -> None:
    model = parse("g (float[2,3] x, float[n,3] z) => (float[2,3] y) { y = Relu(x) }")
    assert [static_shape(value) for value in model.graph.inputs] == [(2, 3), None]
    assert static_shape(ir.Value(name="v")) is None


def test_an_output_keeps_its_name(parse, outputs) -> None:
    x = np.array([-1.0], np.float32)
    model = parse("g (float[1] x) => (float[1] y) { h = Relu(x) y = Identity(h) }")
    bypass(model.graph.node(1))
    assert [node.op_type for node in model.graph] == ["Relu"] and outputs(model, x=x)[0] == [0.0]
    assert model.graph.outputs[0].name == "y"

    model = parse("g (float[1] x) => (float[1] y) { h = Relu(x) y = Neg(x) }")
    take_over(model.graph.node(1), model.graph.node(0).outputs[0])
    assert model.graph.outputs[0].name == "y" and outputs(model, x=x)[0] == [0.0]


def test_an_output_that_is_an_input_stays(parse) -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = Identity(x) }")
    bypass(model.graph.node(0))
    assert len(model.graph) == 1


def test_unused_constants_go(parse) -> None:
    model = parse("g (float[1] x) => (float[1] y) { y = Add(x, c) }", {n: np.ones(1, np.float32) for n in "cd"})
    assert drop_unused_initializers(model.graph) and list(model.graph.initializers) == ["c"]
    assert not drop_unused_initializers(model.graph)
