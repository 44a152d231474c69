"""Tiny bundles whose members continue texts: features are a product of all tokens with a weight of each place."""

import hashlib
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coformer_runtime.manifest import FileSpec, GenerationSpec, GoldenSpec, Manifest, TensorSpec
from tests.runtime import bundles

CONTEXT, CHUNK, PADDING = 12, 4, bundles.CLASSES
SPEC = GenerationSpec("step.onnx", "prefill.onnx", CHUNK, CONTEXT, PADDING)


def weight(member: int) -> np.ndarray:
    """Return what a token adds at each place, `(places, d_n)`; the place behind the context is that of padding."""
    made = np.random.default_rng(50 + member).standard_normal((CONTEXT + 1, bundles.WIDTHS[member]))
    made[CONTEXT] = 0
    return made.astype(np.float32)


def features_of(member: int, tokens: Sequence[int]) -> np.ndarray:
    """Return `(1, d_n)`, what a member makes of a text."""
    places = np.zeros(CONTEXT + 1, np.float32)
    places[: len(tokens)] = 1 + np.array(tokens)
    product: np.ndarray = places[None] @ weight(member)
    return product


def continued(members: Sequence[int], prompt: Sequence[int], count: int) -> List[int]:
    """Return the `count` likeliest tokens that follow a prompt."""
    text = list(prompt)
    for _ in range(count):
        joined = np.concatenate([features_of(member, text) for member in members], axis=1)
        text.append(int((joined @ bundles.aggregator_weight(members)).argmax()))
    return text[len(prompt) :]


def graph(member: int, size: int) -> bytes:
    """Return the graph for `size` tokens: it writes them into the cache, and multiplies that with the weight."""
    cache, ids = [1, CONTEXT + 1], [1, size]
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["numbers", "one"], ["values"]),
        helper.make_node("Cast", ["places"], ["where"], to=TensorProto.INT64),
        helper.make_node("ScatterElements", ["keys", "where", "values"], ["keys_next"], axis=1),
        helper.make_node("MatMul", ["keys_next", "weight"], ["features"]),
    ]
    made = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, ids),
            helper.make_tensor_value_info("places", TensorProto.INT32, ids),
            helper.make_tensor_value_info("keys", TensorProto.FLOAT, cache),
        ],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, bundles.WIDTHS[member]]),
            helper.make_tensor_value_info("keys_next", TensorProto.FLOAT, cache),
        ],
        [
            numpy_helper.from_array(weight(member), "weight"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    model: onnx.ModelProto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    data: bytes = model.SerializeToString()
    return data


def generation_files(member: int) -> Dict[str, bytes]:
    """Return path -> content of a bundle's files; member 0 is the central one."""
    files = {path: data for path, data in bundles.member_files(member).items() if path.startswith("aggregators/")}
    texts = np.random.default_rng(3).integers(0, bundles.CLASSES, (bundles.CASES, CONTEXT), dtype=np.int32)
    outputs = [np.concatenate([features_of(each, text) for text in texts]) for each in range(len(bundles.DEVICES))]
    files.update({"step.onnx": graph(member, 1), "prefill.onnx": graph(member, CHUNK), "member.onnx": b"not used"})
    files.update({"golden/input.npy": bundles.npy(texts), "golden/output.npy": bundles.npy(outputs[member])})
    if member == 0:
        answers = np.concatenate(outputs, axis=1) @ bundles.aggregator_weight((0, 1, 2))
        files["golden/answer.npy"] = bundles.npy(answers)
    return files


def generation_manifest(member: int) -> Manifest:
    """Return the manifest for these files."""
    files = generation_files(member)
    return bundles.member_manifest(member, bundles.member_files(member))._replace(
        input=TensorSpec("ids", "int32", (1, CONTEXT)),
        golden=GoldenSpec("golden/input.npy", "golden/output.npy", 1e-4, "golden/answer.npy" if member == 0 else None),
        generation=SPEC,
        files=tuple(
            FileSpec(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(files.items())
        ),
    )


def make_generation_cluster(directory: Path) -> List[str]:
    """Write the three bundles of a cluster and return their directories, the central one first."""
    return [
        bundles.write_bundle(directory / name, generation_manifest(member), generation_files(member))
        for member, name in enumerate(bundles.DEVICES)
    ]
