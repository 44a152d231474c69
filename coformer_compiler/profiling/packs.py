"""Packs: random member graphs that a board measures, made by the real lowering and the target's real passes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.artifact import file_digest
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.shapes import MemberShape, cost_of_spec, member_spec
from coformer_compiler.decomposer.strategies import alignment_of
from coformer_compiler.device import Device
from coformer_compiler.model.spec import StemSpec, TokenStemSpec, TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.profiling.draws import drawn_shapes
from coformer_compiler.profiling.shared_weights import (
    ALIGNMENT,
    SharedWeights,
    Windows,
    elements_within,
    random_weights,
)
from coformer_passes.runner import legalise, run_passes
from coformer_runtime.errors import CoformerError
from coformer_runtime.profile_pack import FORMAT, PACK_NAME
from coformer_targets import Target, recipe_for

GRAPHS, RECIPE = "graphs", "recipe.json"
LARGEST_POOL = 8 << 20
PACK_BYTES = 180_000_000
"""What graphs and weights together may take, as long as there is `LEAST_WEIGHTS` left for weights."""
MOST_WEIGHTS, LEAST_WEIGHTS = 96 << 20, 16 << 20
"""Bytes of all files of weights; more than any board's last cache."""
MEAN_GRAPH = 0.7
"""The mean graph's bytes over the largest one's, from above."""
MEASURED_ENGINES = ("onnxruntime", "tensorrt")


@dataclass(frozen=True)
class WrittenPack:
    """What was written: its folder, how many points, and bytes of all files."""

    folder: Path
    points: int
    size_bytes: int


def write_pack(
    folder: Path,
    model: str,
    teacher: TransformerSpec,
    target: Target,
    count: int,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> WrittenPack:
    """Write a pack; the folder appears whole. The same arguments give the same bytes.

    Every graph goes through the lowering and the passes. The largest and the smallest also go through all checks and
    the comparison of numerics; the others differ from them in sizes alone.

    Args:
        folder: must not be there.
        model: name of the teacher, for people.
        teacher: its shapes.
        target: whose passes the graphs go through.
        count: number of points, at least 2.
        seed: of shapes and weights.
        advance: called after each graph.

    Raises:
        CoformerError: the folder is there already, or the target's engine is not measured on boards.
        CheckFailed: see `legalise`.
    """
    _check(folder, target, count)
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / GRAPHS).mkdir(parents=True)
    device = Device("pack", target, target.gflops, float(target.memory_mb))
    shape = teacher_shape(teacher)
    shapes = drawn_shapes(shape, alignment_of(device, shape), count, seed)
    largest = member_spec(teacher, shapes[0][0], shortcuts=True)
    pool = weight_pool(largest, seed)
    graphs = (
        member_graph(member_spec(teacher, drawn, shortcuts=shortcuts), target, pool, checked=number < 2)
        for number, (drawn, shortcuts) in enumerate(shapes)
    )
    ends = [next(graphs), next(graphs)]
    weights = SharedWeights(draft / GRAPHS, elements_within(ends, weights_budget(ends[0], draft / GRAPHS, count)))
    weights.write(seed)
    points = []
    for number, (graph, (drawn, shortcuts)) in enumerate(zip(chain(ends, graphs), shapes, strict=True)):
        weights.replace(graph)
        name = f"{GRAPHS}/{number:05}.onnx"
        (draft / name).write_bytes(small_graph(graph))
        points.append({"graph": name, **_shape_json(drawn, shortcuts)})
        advance()
    if target.engine == "tensorrt":
        recipe = recipe_for(target, draft / points[0]["graph"])
        recipe["needed_mb"] += 2 * 4 * cost_of_spec(largest).params >> 20  # the weights, which lie beside the graph
        (draft / RECIPE).write_text(json.dumps(recipe, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_manifest(draft, model, teacher, target, points, seed)
    draft.rename(folder)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return WrittenPack(folder, len(points), sum(sizes))


def _check(folder: Path, target: Target, count: int) -> None:
    if target.engine not in MEASURED_ENGINES:
        raise CoformerError(
            f"its engine is {target.engine}, which `coformer-node profile` does not run",
            f"target '{target.name}'",
            "choose a target with ONNX Runtime or TensorRT",
        )
    if count < 2:
        raise CoformerError(
            f"-n is {count}", "coformerc profile pack", "give at least 2; some hundreds make a predictor"
        )
    if folder.exists():
        raise CoformerError("is there already", f"pack {folder}", "remove it, or name another folder with -o")


def member_graph(spec: TransformerSpec, target: Target, pool: torch.Tensor, *, checked: bool) -> ir.Model:
    """The legal graph of a member with weights out of `pool`; `checked` compares numerics as well."""
    graph = member_of_pool(spec, pool).lower("member")
    if not checked:
        return run_passes(graph, target)
    given = spec.stem.input
    values = np.random.default_rng(0).integers(0, values_below(spec.stem), (1, *given.shape))
    return legalise(graph, target, {given.name: values.astype(given.dtype)})


def weights_budget(largest: ir.Model, folder: Path, count: int) -> int:
    """Bytes for all files of weights: what a pack of `count` graphs, the largest of them given, leaves of its own."""
    SharedWeights(folder, elements_within([largest], MOST_WEIGHTS)).replace(largest)
    graphs = int(count * MEAN_GRAPH * len(small_graph(largest)))
    return max(LEAST_WEIGHTS, min(MOST_WEIGHTS, PACK_BYTES - graphs))


def small_graph(model: ir.Model) -> bytes:
    """A graph's file: values have short names and nodes none, and shapes in between, which engines infer, are left out.

    Of a thousand graphs they would be most of the bytes. Inputs and outputs keep their names.
    """
    proto = ir.to_proto(model)
    outside = [each.name for each in (*proto.graph.input, *proto.graph.output)]
    names = dict(zip(outside, outside, strict=True))

    def short(name: str) -> str:
        return names.setdefault(name, f"v{len(names):x}") if name else ""

    _rename(proto.graph, short)
    return bytes(proto.SerializeToString())


def _rename(graph: Any, short: Callable[[str], str]) -> None:
    del graph.value_info[:]
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for values in (node.input, node.output):
            values[:] = [short(name) for name in values]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, short)
    for each in (*graph.initializer, *graph.input, *graph.output):
        each.name = short(each.name)


def weight_pool(largest: TransformerSpec, seed: int) -> torch.Tensor:
    """Numbers for the weights of members up to the largest one: at least as many as its largest tensor has."""
    with torch.device("meta"):
        sizes = [tensor.numel() for tensor in Transformer(largest).state_dict().values()]
    wanted = max(min(sum(sizes), LARGEST_POOL), *sizes)
    return torch.from_numpy(random_weights("float32", wanted + ALIGNMENT, seed))


def values_below(stem: StemSpec) -> int:
    """What the elements of an input are smaller than."""
    if isinstance(stem, TokenStemSpec):
        return stem.vocabulary if stem.types == 1 else stem.types  # words and types come in one tensor
    return 256


def member_of_pool(spec: TransformerSpec, pool: torch.Tensor) -> Transformer:
    """A member whose weights are windows of `pool`, not copies."""
    with torch.device("meta"):
        member = Transformer(spec)
    windows = Windows(len(pool))
    state = {
        name: pool[(start := windows.take(tensor.numel())) : start + tensor.numel()].view(tensor.shape)
        for name, tensor in member.state_dict().items()
    }
    state |= {name: torch.full_like(state[name], 64.0) for name in ("stem.mean", "stem.std") if name in state}
    member.load_state_dict(state, assign=True)
    return member.requires_grad_(False).eval()


def _shape_json(shape: MemberShape, shortcuts: bool) -> dict[str, Any]:
    return {
        "embed": shape.embed,
        "layers": sorted(shape.heads),
        "heads": [shape.heads[layer] for layer in sorted(shape.heads)],
        "neurons": [shape.neurons[layer] for layer in sorted(shape.heads)],
        "shortcuts": shortcuts,
    }


def _write_manifest(
    folder: Path, model: str, teacher: TransformerSpec, target: Target, points: list[dict[str, Any]], seed: int
) -> None:
    given, spec = teacher.stem.input, teacher.to_json()
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    content = {
        "format": FORMAT,
        "target": target.name,
        "engine": {"kind": target.engine, "version": target.engine_version, "precision": target.precision},
        "model": {"name": model, "sha256": digest, "spec": spec},
        "input": {
            "name": given.name,
            "dtype": given.dtype,
            "shape": [1, *given.shape],
            "below": values_below(teacher.stem),
        },
        "seed": seed,
        "points": points,
        "files": {name: {"sha256": file_digest(folder / name)} for name in files},
    }
    if target.engine == "tensorrt":
        content["recipe"] = RECIPE
    (folder / PACK_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
