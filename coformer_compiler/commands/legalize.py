"""`coformerc legalize`: any ONNX graph in the form that a target takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from coformer_passes.graph_files import read_graph, save_graph
from coformer_passes.quantise_gently import legalise_int8
from coformer_passes.random_inputs import integer_limits, random_inputs
from coformer_passes.runner import PassRecord, legalise
from coformer_runtime.errors import CoformerError
from coformer_targets import engine_from_onnx, load_target, load_target_file, with_precision


def legalize_graph(
    path: Path,
    target_name: str | None,
    out: Path,
    *,
    target_file: Path | None = None,
    precision: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Lower a graph file, prove it on random inputs in ONNX Runtime, and write it.

    Raises:
        CoformerError: the file is at fault, or the target takes some of its nodes in no form; all of them are named. Or
            the legal graph cannot be written where it should be.
        CheckFailed: a pass changed what the graph computes.
    """
    if (target_name is None) == (target_file is None):
        raise CoformerError("no target is given, or two", "legalize", "give one of --target and --target-file")
    target = load_target(target_name) if target_name is not None else load_target_file(str(target_file))
    if precision is not None:
        target = with_precision(target, precision)
    model = read_graph(path, shapes)
    records: list[PassRecord] = []
    lower = legalise_int8 if target.precision == "int8" else legalise
    legal = lower(model, target, random_inputs(model), record=records.append)
    _save(legal, out)
    engine = engine_from_onnx(target, out)
    return {
        "graph": str(path),
        "out": str(out),
        "target": target.name,
        "engine": f"{engine.kind} {target.engine_version}",
        "precision": engine.precision,
        "opset": {"before": model.graph.opset_imports[""], "after": legal.graph.opset_imports[""]},
        "ir_version": {"before": model.ir_version, "after": legal.ir_version},
        "operators": {
            "before": dict(sorted(Counter(node.op_type for node in model.graph).items())),
            "after": dict(sorted(Counter(node.op_type for node in legal.graph).items())),
        },
        "drawn_below": integer_limits(model),
        "passes": [asdict(record) for record in records],
        "bytes": engine.graph_bytes,
    }


def _save(model: ir.Model, out: Path) -> None:
    try:
        save_graph(model, out)
    except OSError as error:
        raise CoformerError(
            f"cannot be written ({error.strerror or error})",
            f"graph {out}",
            "give a path in a folder that you may write to, with room for the graph",
        ) from error


def shapes_from(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`["x=1,3,224,224"]` → `{"x": (1, 3, 224, 224)}`."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.split(",")
        if not name or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            raise CoformerError(f"'{text}' is no shape of an input", "--shape", "write INPUT=1,3,224,224")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def legalize_text(found: Mapping[str, Any]) -> str:
    """What was done, for a terminal."""
    before, after = (sum(found["operators"][when].values()) for when in ("before", "after"))
    changing = [record["name"] for record in found["passes"] if record["modified"]]
    lines = [
        f"{found['out']}: legal for {found['target']} ({found['engine']}, {found['precision']}), "
        "equal in ONNX Runtime on random inputs",
        f"  opset    {found['opset']['before']} → {found['opset']['after']}",
        f"  nodes    {before} → {after}",
        f"  passes   {', '.join(changing) or 'none had to change anything'}",
    ]
    drawn = [f"{name} from 0 to {limit - 1}" for name, limit in sorted(found["drawn_below"].items())]
    if drawn:
        lines.append(f"  integers {', '.join(drawn)}")
    return "\n".join(lines)
