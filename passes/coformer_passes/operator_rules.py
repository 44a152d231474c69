"""What the operator tables say of a node beyond types, ranks and constants: one predicate a rule.

A table names them (`checks = ["einsum_equation"]`), `CHECKS` has them by that name. Each yields what is wrong with a
node, and the cure; the table's own words of the rule are added by whoever asks. Where a predicate needs a type or a
shape that is not known, that is wrong too: the parser on the board may know it, and nobody has looked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import onnx_ir as ir

from coformer_passes.rewriting import array_of, static_shape

Problem = tuple[str, str]
Check = Callable[[ir.Node], Iterator[Problem]]

KNOW_SHAPES = "export the graph with static shapes, so that infer_shapes knows them"
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)
TOPK_LIMIT = 3840
"""K of TensorRT's TopK stays below it (onnx-tensorrt docs/operators.md, from 10.1 on)."""


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input of the node, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def unknown_shape(index: int, value: ir.Value) -> Problem:
    """The problem of an input whose shape a rule needs."""
    return f"the shape of input {index} ('{value.name}') is not known", KNOW_SHAPES


def unknown_type(index: int, value: ir.Value) -> Problem:
    """The problem of an input whose type a rule needs."""
    return f"the type of input {index} ('{value.name}') is not known", "export the graph with the types of its values"


def _attention_form(node: ir.Node) -> Iterator[Problem]:
    cure = "write it as MatMul, Softmax, MatMul"
    for index, word in ((1, "key"), (2, "value"), (3, "mask")):
        value = input_at(node, index)
        if value is not None and value.shape is None:
            yield unknown_shape(index, value)
        elif value is not None and value.shape is not None and len(value.shape) != 4:
            yield f"the {word} has rank {len(value.shape)}", cure
    for index, word in ((4, "past_key"), (5, "past_value"), (6, "nonpad_kv_seqlen")):
        if input_at(node, index) is not None:
            yield f"it has the input {word}", cure
    for index, word in ((1, "present_key"), (2, "present_value"), (3, "qk_matmul_output")):
        if index < len(node.outputs) and _is_read(node.outputs[index]):
            yield f"its output {word} is read", cure
    if node.attributes.get_float("softcap", 0.0) != 0:
        yield "it has a softcap", cure
    if "softmax_precision" in node.attributes:
        yield "it says a softmax_precision", "remove the attribute"


def _branch_names(node: ir.Node) -> Iterator[Problem]:
    then, other = _branches(node)
    for name in sorted({str(value.name) for value in then} & {str(value.name) for value in other}):
        yield f"both branches have an output '{name}'", "name the outputs of its branches differently"


def _branch_ranks(node: ir.Node) -> Iterator[Problem]:
    for index, (then, other) in enumerate(zip(*_branches(node), strict=False)):
        if then.shape is None or other.shape is None:
            yield f"the shape of output {index} of a branch is not known", KNOW_SHAPES
        elif len(then.shape) != len(other.shape):
            yield (
                f"output {index} has rank {len(then.shape)} in one branch and {len(other.shape)} in the other",
                "give both branches outputs of one shape",
            )


def _branch_shapes(node: ir.Node) -> Iterator[Problem]:
    for index, (then, other) in enumerate(zip(*_branches(node), strict=False)):
        one, two = static_shape(then), static_shape(other)
        if one is None or two is None:
            yield f"the shape of output {index} of a branch is not known", KNOW_SHAPES
        elif any(1 not in pair and pair[0] != pair[1] for pair in zip(reversed(one), reversed(two), strict=False)):
            yield (
                f"output {index} is {list(one)} in one branch and {list(two)} in the other",
                "give both branches outputs of one shape",
            )


def _clip_bounds(node: ir.Node) -> Iterator[Problem]:
    value, bounds = input_at(node, 0), [input_at(node, index) for index in (1, 2)]
    if value is None or all(bound is None or array_of(bound) is not None for bound in bounds):
        return
    if value.dtype is None:
        yield unknown_type(0, value)
    elif value.dtype not in (*FLOATS, ir.DataType.INT32, ir.DataType.INT64):
        yield f"min or max is computed, and input 0 is {value.dtype.name.lower()}", "make min and max constant"


def _deform_conv(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    if value is not None and value.shape is None:
        yield unknown_shape(0, value)
    elif value is not None and value.shape is not None and len(value.shape) not in (3, 4):
        yield f"input 0 has rank {len(value.shape)}", "reshape its input to 1 or 2 spatial axes"
    pads = list(node.attributes.get_ints("pads", []))
    if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        yield f"pads = {pads} are not symmetric", "put a Pad in front of it"


def _dense_constant(node: ir.Node) -> Iterator[Problem]:
    for name in ("sparse_value", "value_string", "value_strings"):
        if name in node.attributes:
            yield f"it has a {name}", "give it as a dense tensor of numbers"


def _dilations_of_one(node: ir.Node) -> Iterator[Problem]:
    dilations = list(node.attributes.get_ints("dilations", []))
    if any(each != 1 for each in dilations):
        yield f"dilations = {dilations}", "pool without dilations, or take the windows with Gather first"


def _einsum_equation(node: ir.Node) -> Iterator[Problem]:
    cure = "write it as Transpose, Reshape and MatMul"
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    if "." in equation:
        yield f"the equation '{equation}' has an ellipsis", cure
        return
    if any(not "a" <= letter <= "z" for letter in equation if letter not in ",->"):
        yield f"the equation '{equation}' has other letters than a to z", "rename its indices"
    sizes: dict[str, set[int]] = {}
    for index, term in enumerate(equation.partition("->")[0].split(",")):
        if len(set(term)) < len(term):
            yield f"the equation '{equation}' repeats an index within '{term}'", cure
        value = input_at(node, index)
        shape = None if value is None else static_shape(value)
        if value is not None and shape is None:
            yield unknown_shape(index, value)
        for letter, size in zip(term, shape or (), strict=False):
            sizes.setdefault(letter, set()).add(size)
    for letter in sorted(letter for letter, found in sizes.items() if len(found) > 1):
        yield (
            f"the equation '{equation}' broadcasts '{letter}' over {' and '.join(map(str, sorted(sizes[letter])))}",
            "put an Expand in front of it",
        )


def _first_of_static_shape(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    if value is not None and static_shape(value) is None:
        yield unknown_shape(0, value)


def _float_ranges_of_constants(node: ir.Node) -> Iterator[Problem]:
    for index, value in enumerate(node.inputs):
        if value is None or array_of(value) is not None:
            continue
        if value.dtype is None:
            yield unknown_type(index, value)
        elif value.dtype in FLOATS:
            yield (
                f"input {index} ('{value.name}') is computed, and is {value.dtype.name.lower()}",
                "make it constant, or count in int32 and Cast the result",
            )


def _loop_shapes(node: ir.Node) -> Iterator[Problem]:
    body = node.attributes["body"].as_graph()
    for index, given in enumerate(node.inputs[2:]):
        declared = body.inputs[2 + index]
        source = declared if declared.shape is not None or given is None else given
        before, after = static_shape(source), static_shape(body.outputs[1 + index])
        if before is None or after is None:
            yield f"the shape of carried value {index} is not known", KNOW_SHAPES
        elif before != after:
            yield (
                f"carried value {index} is {list(before)} before a round and {list(after)} behind it",
                "unroll the loop, or carry a value of one shape",
            )


def _lstm_form(node: ir.Node) -> Iterator[Problem]:
    yield from _same_activations(node)
    for name in ("input_forget", "layout"):
        if node.attributes.get_int(name, 0) != 0:
            yield f"{name} = {node.attributes.get_int(name)}", f"export it with {name} = 0"


def _matrix_of_static_shape(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    shape = None if value is None else static_shape(value)
    if value is not None and shape is None:
        yield unknown_shape(0, value)
    elif shape is not None and len(shape) != 2:
        yield f"input 0 has rank {len(shape)}", "give the identity matrix as an initializer"


def _mod_of_integers(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    if value is None or node.attributes.get_int("fmod", 0) != 0:
        return
    if value.dtype is None:
        yield unknown_type(0, value)
    elif value.dtype in FLOATS:
        yield f"fmod = 0, and input 0 is {value.dtype.name.lower()}", "set fmod = 1, or cast the inputs to int32 first"


def _beyond_zero(node: ir.Node, index: int, word: str) -> str | None:
    """The word for an input that is not wholly zero, or that it is computed; None where it is zero or left out."""
    value = input_at(node, index)
    array = array_of(value)
    if value is None or (array is not None and not array.any()):
        return None
    return "computed" if array is None else word


def _no_training(node: ir.Node) -> Iterator[Problem]:
    said = _beyond_zero(node, 2, "true")
    if said is not None:
        yield f"training_mode is {said}", "export the graph for inference"


def _one_k(node: ir.Node) -> Iterator[Problem]:
    array = array_of(input_at(node, 1))
    if array is not None and array.size != 1:
        yield f"K has {array.size} values", "give K as one value"


def _rank_of_two_or_more(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    if value is not None and value.shape is None:
        yield unknown_shape(0, value)
    elif value is not None and value.shape is not None and len(value.shape) < 2:
        yield f"input 0 has rank {len(value.shape)}", "reshape its input first"


def _real_signal(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 0)
    shape = None if value is None else static_shape(value)
    if value is not None and shape is None:
        yield unknown_shape(0, value)
    elif shape is not None and len(shape) == 3 and shape[-1] != 1:
        yield f"input 0 is {list(shape)}: its last axis holds complex numbers", "give it a real signal"


def _resize_form(node: ir.Node) -> Iterator[Problem]:
    if node.attributes.get_int("antialias", 0) != 0:
        yield "antialias = 1", "export it with antialias = 0"
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        yield f"keep_aspect_ratio_policy = {policy}", "export it with the sizes themselves, and stretch"
    axes, value = node.attributes.get_ints("axes", None), input_at(node, 0)
    if axes is None or value is None:
        return
    if value.shape is None:
        yield unknown_shape(0, value)
    elif len(axes) != len(value.shape):
        yield f"axes = {list(axes)} of {len(value.shape)}", "give scales or sizes for all axes"


def _rotary_positions(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 3)
    if value is not None and value.dtype is None:
        yield unknown_type(3, value)
    elif value is not None and value.dtype is not None and value.dtype != ir.DataType.INT64:
        yield f"input 3 is {value.dtype.name.lower()}", "cast the positions to int64 first"


def _same_activations(node: ir.Node) -> Iterator[Problem]:
    names = list(node.attributes.get_strings("activations", []))
    half = len(names) // 2
    if node.attributes.get_string("direction", "forward") == "bidirectional" and names[:half] != names[half:]:
        yield f"activations = {names} differ between the directions", "write it as two nodes of one direction each"


def _scalar_padding(node: ir.Node) -> Iterator[Problem]:
    value = input_at(node, 2)
    shape = None if value is None else static_shape(value)
    if value is not None and shape is None:
        yield unknown_shape(2, value)
    elif shape is not None and math.prod(shape) != 1:
        yield f"the value that is filled in is {list(shape)}", "give it as one number"


def _tensor_scatter_form(node: ir.Node) -> Iterator[Problem]:
    for index, word in enumerate(("past_cache", "update")):
        value = input_at(node, index)
        if value is not None and value.shape is None:
            yield unknown_shape(index, value)
        elif value is not None and value.shape is not None and len(value.shape) != 4:
            yield f"{word} has rank {len(value.shape)}", "reshape it to four axes first"
    if node.attributes.get_int("axis", -2) not in (-2, 2):
        yield f"axis = {node.attributes.get_int('axis')}", "transpose it, so that the axis is -2"


def _topk_limit(node: ir.Node) -> Iterator[Problem]:
    if node.attributes.get_int("sorted", 1) != 1:
        yield "sorted = 0", "export it with sorted = 1"
    array, shape = array_of(input_at(node, 1)), static_shape(node.outputs[0])
    axis = node.attributes.get_int("axis", -1)
    if array is not None and array.size == 1:
        count = int(array.reshape(()))
    elif shape is not None and -len(shape) <= axis < len(shape):
        count = shape[axis]
    else:
        yield "K is not known", "give K as an initializer"
        return
    if count >= TOPK_LIMIT:
        yield f"K = {count}", f"ask for fewer than {TOPK_LIMIT}"


def _uint8_with_floats(node: ir.Node) -> Iterator[Problem]:
    value, to = input_at(node, 0), ir.DataType(node.attributes.get_int("to", 0))
    if value is None:
        return
    if value.dtype is None:
        yield unknown_type(0, value)
        return
    pair, narrow = (value.dtype, to), (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    if ir.DataType.UINT8 in pair and not any(each in narrow for each in pair):
        yield f"it casts {value.dtype.name.lower()} to {to.name.lower()}", "cast it to float32 in between"


def _zero_points(node: ir.Node) -> Iterator[Problem]:
    said = _beyond_zero(node, 2, "not 0")
    if said is not None:
        yield f"its zero point is {said}", "quantise symmetrically"


def _branches(node: ir.Node) -> tuple[list[ir.Value], list[ir.Value]]:
    graphs = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    return list(graphs[0].outputs), list(graphs[1].outputs)


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())


CHECKS: dict[str, Check] = {
    "attention_form": _attention_form,
    "branch_names": _branch_names,
    "branch_ranks": _branch_ranks,
    "branch_shapes": _branch_shapes,
    "clip_bounds": _clip_bounds,
    "deform_conv": _deform_conv,
    "dense_constant": _dense_constant,
    "dilations_of_one": _dilations_of_one,
    "einsum_equation": _einsum_equation,
    "first_of_static_shape": _first_of_static_shape,
    "float_ranges_of_constants": _float_ranges_of_constants,
    "loop_shapes": _loop_shapes,
    "lstm_form": _lstm_form,
    "matrix_of_static_shape": _matrix_of_static_shape,
    "mod_of_integers": _mod_of_integers,
    "no_training": _no_training,
    "one_k": _one_k,
    "rank_of_two_or_more": _rank_of_two_or_more,
    "real_signal": _real_signal,
    "resize_form": _resize_form,
    "rotary_positions": _rotary_positions,
    "same_activations": _same_activations,
    "scalar_padding": _scalar_padding,
    "tensor_scatter_form": _tensor_scatter_form,
    "topk_limit": _topk_limit,
    "uint8_with_floats": _uint8_with_floats,
    "zero_points": _zero_points,
}
"""Name in the tables → predicate."""
