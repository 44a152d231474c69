"""Packs for the tests: tiny graphs that every engine loads, ONNX Runtime 1.10 included."""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Optional

from onnx import TensorProto

from tests.runtime import bundles
from tests.runtime.boards import Board, recipe_for

SHAPE = {"embed": 4, "layers": [0, 2], "heads": [1, 2], "neurons": [8, 16], "shortcuts": True}


def make_pack(directory: Path, count: int = 3, board: Optional[Board] = None, **changes: Any) -> str:
    """Write a pack for ONNX Runtime, or for TensorRT on `board`; `changes` replace keys of pack.json."""
    (directory / "graphs").mkdir(parents=True)
    element = TensorProto.UINT8 if board is None else TensorProto.FLOAT
    names = ["graphs/{:05}.onnx".format(number) for number in range(count)]
    for number, name in enumerate(names):
        (directory / name).write_bytes(bundles.member_graph(number % 3, element=element))
    document: Dict[str, Any] = {
        "format": "coformer-profile-pack/1",
        "target": "cpu" if board is None else board.target,
        "engine": {"kind": "onnxruntime", "version": "1.32.0", "precision": "float32"},
        "model": {"name": "tiny", "sha256": "ab" * 32, "spec": {"layers": 3}},
        "input": {"name": "pixels", "dtype": "uint8", "shape": list(bundles.PIXELS), "below": 256},
        "seed": 0,
        "points": [{"graph": name, **SHAPE} for name in names],
    }
    if board is not None:
        document["engine"] = {"kind": "tensorrt", "version": board.recipe_version, "precision": "float32"}
        document["recipe"] = "recipe.json"
        (directory / "recipe.json").write_text(json.dumps(recipe_for(board, graph=names[0])))
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    document["files"] = {
        path.relative_to(directory).as_posix(): {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    }
    document.update(changes)
    (directory / "pack.json").write_text(json.dumps(document))
    return str(directory)
