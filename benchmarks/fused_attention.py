"""ONNX Runtime's own fused attention (com.microsoft) against the nodes that our CPU graphs have in its place.

Run: python benchmarks/fused_attention.py. Writes benchmarks/results/fused_attention.json.

Members of DeiT-S and DeiT-B as the compiler makes them for a CPU, four layers, random weights (shape decides time), at
224, 384 and 512 pixels: without the pass fuse_attention, with it (MultiHeadAttention), and with Attention, which also
holds the linears of queries, keys and values. One thread, alternating, taking turns at going first; the figure is the
median of the ratios of their processor times: above 1 the fused operator is faster.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx_ir as ir
import onnxruntime

from coformer_passes.fuse_attention import fuse_attention
from coformer_passes.graph_files import save_graph
from coformer_passes.pipeline import PIPELINES
from coformer_passes.rewriting import add_initializer, array_of, drop_unused_initializers, take_over
from coformer_passes.runner import legalise
from coformer_targets import load_target

MEMBERS = {"DeiT-S member": (192, 3), "DeiT-B member": (384, 6)}
PIXELS = (224, 384, 512)
DEPTH = 4
PAIRS = 30
RESULT = Path(__file__).parent / "results" / "fused_attention.json"


def member(embed: int, heads: int, pixels: int) -> ir.Model:
    """The legal graph of a member for a CPU."""
    from coformer_compiler.frontends import ModelSource, import_model

    options = {"img_size": pixels, "embed_dim": embed, "depth": DEPTH, "num_heads": heads}
    source = ModelSource("timm:vit_tiny_patch16_224", "random", options=tuple(options.items()))
    golden = {"pixels": np.random.default_rng(0).integers(0, 256, (1, 3, pixels, pixels), dtype=np.uint8)}
    passes = tuple(each for each in PIPELINES["onnxruntime"] if each is not fuse_attention)
    return legalise(import_model(source).eval().lower("member"), load_target("cpu"), golden, passes=passes)


def with_the_pass(plain: ir.Model) -> ir.Model:
    """A clone with MultiHeadAttention."""
    clone = plain.clone()
    assert fuse_attention(clone, load_target("cpu"))
    return clone


def with_attention(plain: ir.Model) -> ir.Model:
    """A clone with Attention, made from the other one: it takes the place of the linears in front, too."""
    clone = with_the_pass(plain)
    for node in [node for node in clone.graph if node.op_type == "MultiHeadAttention"]:
        inputs = _packed(clone.graph, list(node.inputs), node.outputs[0].name)
        output = ir.Value(shape=node.outputs[0].shape, type=node.outputs[0].type)
        packed = ir.node("Attention", inputs, node.attributes, domain=node.domain, outputs=[output])
        clone.graph.insert_before(node, packed)
        take_over(node, output)
    _drop_unused(clone.graph)
    return clone


def _packed(graph: ir.Graph, sums: list[ir.Value], name: str) -> list[ir.Value]:
    """Input, weight and bias of the three linears side by side."""
    weights, biases, source = [], [], None
    for value in sums:
        add = value.producer()
        product = next(each.producer() for each in add.inputs if each.producer() is not None)
        biases.append(next(array for array in map(array_of, add.inputs) if array is not None))
        weights.append(array_of(product.inputs[1]))
        source = product.inputs[0]
    weight = add_initializer(graph, f"{name}.qkv.weight", np.concatenate(weights, 1))
    return [source, weight, add_initializer(graph, f"{name}.qkv.bias", np.concatenate(biases))]


def _drop_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    drop_unused_initializers(graph)


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compared(ours: onnxruntime.InferenceSession, theirs: onnxruntime.InferenceSession, feed: Any) -> dict[str, Any]:
    """Time of ours over theirs, and how far the answers differ."""
    answers = [side.run(None, feed)[0] for side in (ours, theirs)]
    times = np.zeros((PAIRS, 2))
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 else (1, 0):
            began = time.process_time()
            (ours, theirs)[side].run(None, feed)
            times[pair, side] = time.process_time() - began
    low, median, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    return {
        "ours_over_fused": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "ours_ms": round(float(np.median(times[:, 0])) * 1e3, 3),
        "fused_ms": round(float(np.median(times[:, 1])) * 1e3, 3),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
    }


def main() -> None:
    """Measure, print and keep."""
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "threads": 1,
        "pairs": PAIRS,
        "layers": DEPTH,
    }
    for name, (embed, heads) in MEMBERS.items():
        for pixels in PIXELS:
            plain = member(embed, heads, pixels)
            row: dict[str, Any] = {}
            with tempfile.TemporaryDirectory() as folder:
                save_graph(plain, Path(folder) / "plain.onnx")
                ours = session(Path(folder) / "plain.onnx")
                feed = {"pixels": np.random.default_rng(1).integers(0, 256, (1, 3, pixels, pixels), dtype=np.uint8)}
                row["ours, again (noise)"] = compared(ours, session(Path(folder) / "plain.onnx"), feed)
                for kind, made in (("MultiHeadAttention", with_the_pass), ("Attention", with_attention)):
                    path = Path(folder) / f"{kind}.onnx"
                    save_graph(made(plain), path)
                    row[kind] = compared(ours, session(path), feed)
            key = f"{name}, {embed} wide, {heads} heads, {(pixels // 16) ** 2 + 1} tokens"
            result[key] = row
            print(key, {kind: each["ours_over_fused"] for kind, each in row.items()}, flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
