"""ONNX graphs of whole models: valid, static, named, and equal to torch in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from coformer_compiler.model.graph import IR_VERSION, OPSET
from tests.compiler.tiny import VARIANTS, random_inputs, random_model, tiny_spec


@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_onnx_runtime_equals_torch(name: str, with_head: bool, run_onnx: Callable[..., list[np.ndarray]]) -> None:
    model = random_model(VARIANTS[name], seed=6)
    inputs = random_inputs(model.spec, 3)
    lowered = model.lower("tiny", with_head=with_head)
    want = model.head(model.sent(inputs)) if with_head else model.sent(inputs)
    assert want.std(0).min() > 0.01, "the reference answers every sample alike"
    got = np.concatenate([run_onnx(lowered, **{model.spec.stem.input.name: each[None].numpy()})[0] for each in inputs])
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_interface(name: str) -> None:
    model = random_model(VARIANTS[name])
    spec = model.spec
    for with_head, output in ((False, ("features", (1, spec.features))), (True, ("logits", (1, spec.classes)))):
        lowered = model.lower("tiny", with_head=with_head)
        assert (lowered.graph.name, lowered.ir_version, dict(lowered.graph.opset_imports)) == (
            "tiny",
            IR_VERSION,
            {"": OPSET},
        )
        values = [*lowered.graph.inputs, *lowered.graph.outputs]
        found = [(value.name, value.dtype, value.shape and value.shape.numpy()) for value in values]
        taken = spec.stem.input
        assert found == [
            (taken.name, ir.DataType[taken.dtype.upper()], (1, *taken.shape)),
            (output[0], ir.DataType.FLOAT, output[1]),
        ]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_declared_shape_is_the_one_that_runs(
    name: str, session_from: Callable[[onnx.ModelProto], onnxruntime.InferenceSession]
) -> None:
    """All values are made outputs; their static shapes and types as declared are those of the arrays."""
    model = random_model(VARIANTS[name])
    proto = ir.to_proto(model.lower("tiny", with_head=True))
    outputs = [output for node in proto.graph.node for output in node.output]
    inner = [value for value in proto.graph.value_info if value.name in outputs]
    declared = {value.name: value.type.tensor_type for value in [*inner, *proto.graph.output]}
    assert declared.keys() == set(outputs)
    proto.graph.output.extend(inner)
    session = session_from(proto)
    arrays = session.run(outputs, {model.spec.stem.input.name: random_inputs(model.spec, 1).numpy()})
    for output, array in zip(outputs, arrays, strict=True):
        assert [dim.dim_value for dim in declared[output].shape.dim] == list(array.shape), output
        assert declared[output].elem_type == onnx.helper.np_dtype_to_tensor_dtype(array.dtype), output


@pytest.mark.parametrize("name", VARIANTS)
def test_names_are_unique_and_say_where(name: str) -> None:
    model = random_model(VARIANTS[name])
    graph = model.lower("tiny", with_head=True).graph
    nodes = [node.name or "" for node in graph]
    assert len(set(nodes)) == len(nodes)
    wanted = {*model.spec.block_names, "stem", "pool", "head"}
    owners = [next((owner for owner in wanted if f"{node}.".startswith(f"{owner}.")), node) for node in nodes]
    assert set(owners) == wanted
    assert all(value.is_initializer() for value in graph.initializers.values())


def test_a_member_keeps_the_numbers_of_the_teachers_layers() -> None:
    model = random_model(tiny_spec(layers=3))
    del model.blocks[2:4]
    nodes = {node.name for node in model.lower("tiny").graph}
    assert {"layers.0.attention.softmax", "layers.2.attention.softmax"} <= nodes
    assert not any((node or "").startswith("layers.1.") for node in nodes)


@torch.no_grad()
def test_golden_text(golden_text: Callable[[str, str], str]) -> None:
    """The smallest member graph there is, with weights that are plain numbers."""
    spec = tiny_spec(
        embed=3, heads=1, head_dim=2, neurons=2, layers=1, image=(2, 4), patch=(2, 2), shortcut=True, classes=2
    )
    model = random_model(spec)
    for number, parameter in enumerate(model.parameters()):
        parameter.copy_((torch.arange(parameter.numel()) % 7 - 3 + number % 2).reshape(parameter.shape) / 4)
    model.stem.mean.fill_(128)
    model.stem.std.fill_(64)
    text = ir.to_onnx_text(model.lower("tiny"))
    assert text == golden_text(text, "member.onnxtxt")
