"""`coformerc inspect`: what is in this file or folder?"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coformer_compiler.commands.build_folder import BUILD_NAME
from coformer_compiler.decomposer.policy import FORMAT as POLICY_FORMAT
from coformer_compiler.decomposer.policy import MemberPolicy, read_policy
from coformer_compiler.report.write import JSON_NAME, read_report
from coformer_runtime.alternatives import INDEX_NAME, has_index, index_json, open_held
from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME


def inspect_path(path: Path) -> dict[str, Any]:
    """A description as JSON values with a key `kind`: build, bundle, alternatives, policy, graph or checkpoint.

    The index of a build and the manifest of a bundle stand for their folders.

    Raises:
        CoformerError: if the path is none of these, or damaged.
    """
    if not path.exists():
        raise CoformerError("there is no such file or folder", f"path {path}", "check the spelling")
    if path.name in (BUILD_NAME, INDEX_NAME, JSON_NAME, MANIFEST_NAME):
        path = path.parent
    if (path / BUILD_NAME).is_file():
        return {"kind": "build", "report": read_report(path / JSON_NAME).to_json()}
    if has_index(str(path)):
        held = open_held(str(path))
        described = json.loads(index_json(held.listing))
        return {"kind": "alternatives", "device": held.device, "held": list(held.bundles), "index": described}
    if (path / MANIFEST_NAME).is_file():
        manifest = open_bundle(str(path)).manifest
        described = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
        return {"kind": "bundle", "bytes": sum(spec.size_bytes for spec in manifest.files), "manifest": described}
    if path.suffix == ".onnx" and path.is_file():
        return {"kind": "graph", **_graph(path)}
    if path.suffix == ".json" and path.is_file():
        policy = read_policy(path)
        return {
            "kind": "policy",
            "format": POLICY_FORMAT,
            "strategy": policy.strategy,
            "sha256": policy.sha256,
            "teacher": asdict(policy.teacher),
            "members": [_member(member) for member in policy.members],
        }
    if path.suffix == ".safetensors" and path.is_file():
        return {"kind": "checkpoint", **_checkpoint(path)}
    if path.suffix in (".pth", ".pt", ".bin") and path.is_file():
        return {"kind": "checkpoint", **_torch_checkpoint(path)}
    raise CoformerError(
        "is nothing that the toolchain knows",
        f"path {path}",
        "name the output folder of a build, a bundle, a policy, an .onnx graph, or a .safetensors or .pth checkpoint",
    )


def _member(member: MemberPolicy) -> dict[str, Any]:
    return {
        "device": member.device,
        "embed": member.embed,
        "layers": len(member.layers),
        "heads": [len(share.heads) for share in member.layers],
        "neurons": [len(share.neurons) for share in member.layers],
    }


def _graph(path: Path) -> dict[str, Any]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
    except DecodeError as error:
        raise CoformerError(
            f"is no ONNX graph ({error})", f"graph {path}", "give an ONNX file that is whole"
        ) from error
    graph = model.graph

    def tensors(values: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "dtype": onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
                "shape": [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim],
            }
            for value in values
        ]

    return {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "inputs": tensors(graph.input),
        "outputs": tensors(graph.output),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "parameters": sum(int(onnx.numpy_helper.to_array(t).size) for t in graph.initializer),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no iterator)
            header = file.metadata() or {}
    except SafetensorError as error:
        raise CoformerError(f"unreadable or truncated ({error})", f"checkpoint {path}", "copy it again") from error
    own = json.loads(header["coformer"]) if "coformer" in header else None
    return {**_tensors(shapes), "coformer": own}


def _torch_checkpoint(path: Path) -> dict[str, Any]:
    from coformer_compiler.frontends.weights import read_state_dict

    return {**_tensors({name: list(tensor.shape) for name, tensor in read_state_dict(path).items()}), "coformer": None}


def _tensors(shapes: dict[str, list[int]]) -> dict[str, Any]:
    return {"tensors": len(shapes), "parameters": sum(map(math.prod, shapes.values())), "shapes": shapes}
