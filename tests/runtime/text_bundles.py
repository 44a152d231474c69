"""Bundles of members that read texts, with graphs for several lengths and batch sizes that share their weights."""

import hashlib
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from coformer_runtime.manifest import FileSpec, Manifest, TensorSpec
from coformer_runtime.manifest_profiles import ProfileSpec, ProfilesSpec
from tests.runtime import bundles

WORDS, PADDING = 50, 0
LENGTHS, BATCHES = (4, 8, 16), (1, 2, 4)
DATA = "member.onnx.data"


def table(member: int) -> np.ndarray:
    """Return what a word adds to the features, `(words, d_n)`; padding adds nothing."""
    made = np.random.default_rng(member).standard_normal((WORDS, bundles.WIDTHS[member])).astype(np.float32)
    made[PADDING] = 0
    return made


def features_of(member: int, ids: np.ndarray) -> np.ndarray:
    """Return `(batch, d_n)`, what the member's graphs compute."""
    summed: np.ndarray = table(member)[ids].sum(1)
    return summed


def answer_of(members: Sequence[int], ids: np.ndarray) -> np.ndarray:
    """Return `(batch, classes)`."""
    joined = np.concatenate([features_of(member, ids) for member in members], axis=1)
    return joined @ bundles.aggregator_weight(members)


def texts(count: int, seed: int = 0, longest: int = LENGTHS[-1]) -> np.ndarray:
    """Return token numbers `(count, longest)` of texts of unlike lengths."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, WORDS, (count, longest), dtype=np.int32)
    return np.where(np.arange(longest) < random.integers(1, longest + 1, (count, 1)), ids, PADDING).astype(np.int32)


def graph(member: int, shape: Tuple[int, int]) -> bytes:
    """Return ids -> Gather -> ReduceSum -> features, whose table is in the file `DATA`."""
    weight = table(member)
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", DATA), ("offset", "0"), ("length", str(weight.nbytes))):
        tensor.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("ReduceSum", ["words", "axes"], ["features"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    made = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [shape[0], bundles.WIDTHS[member]])],
        [tensor, axes],
    )
    model: onnx.ModelProto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    data: bytes = model.SerializeToString()
    return data


def path_of(shape: Tuple[int, int]) -> str:
    return "member.{}x{}.onnx".format(*shape)


def text_files(member: int, lengths: Sequence[int] = LENGTHS, batches: Sequence[int] = BATCHES) -> Dict[str, bytes]:
    """Return path -> content of a bundle's files; member 0 is the central one."""
    ids = texts(3)
    files = {path: data for path, data in bundles.member_files(member).items() if path.startswith("aggregators/")}
    files.update({"member.onnx": graph(member, (1, lengths[-1])), DATA: table(member).tobytes()})
    files["golden/input.npy"] = bundles.npy(ids[:, : lengths[-1]])
    for length in lengths:
        name = "golden/output.npy" if length == lengths[-1] else "golden/output.{}.npy".format(length)
        files[name] = bundles.npy(features_of(member, ids[:, :length]))
    for shape in further(lengths, batches):
        files[path_of(shape)] = graph(member, shape)
    if member == 0:
        files["golden/answer.npy"] = bundles.npy(answer_of((0, 1, 2), ids[:, : lengths[-1]]))
    return files


def further(lengths: Sequence[int], batches: Sequence[int]) -> List[Tuple[int, int]]:
    return [(batch, length) for batch in batches for length in lengths if (batch, length) != (1, lengths[-1])]


def text_manifest(
    member: int,
    files: Optional[Dict[str, bytes]] = None,
    lengths: Sequence[int] = LENGTHS,
    batches: Sequence[int] = BATCHES,
) -> Manifest:
    """Return the manifest for these files."""
    files = text_files(member, lengths, batches) if files is None else files
    golden = {length: "golden/output.{}.npy".format(length) for length in lengths[:-1]}
    golden[lengths[-1]] = "golden/output.npy"
    graphs = tuple(ProfileSpec(shape, path_of(shape), golden[shape[1]]) for shape in further(lengths, batches))
    return bundles.member_manifest(member, bundles.member_files(member))._replace(
        input=TensorSpec("ids", "int32", (1, lengths[-1])),
        profiles=ProfilesSpec(graphs, PADDING),
        vocabulary=(WORDS,),
        files=tuple(
            FileSpec(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in sorted(files.items())
        ),
    )


def make_text_cluster(directory: Path, lengths: Sequence[int] = LENGTHS, batches: Sequence[int] = BATCHES) -> List[str]:
    """Write the three bundles of a cluster and return their directories, the central one first."""
    made = []
    for member, name in enumerate(bundles.DEVICES):
        files = text_files(member, lengths, batches)
        made.append(bundles.write_bundle(directory / name, text_manifest(member, files, lengths, batches), files))
    return made
