"""The passes: time to legalise, and what the CPU pipeline's graph gains over others on ONNX Runtime.

Run: python benchmarks/passes.py [--onnxslim FOLDER] [--output FILE]. Writes benchmarks/results/passes.json. Weights are
random (shape decides time). Every comparison alternates the sides in one process, one thread, and gives the median of
the ratios.

- legalise: seconds of one core for a member of 12 layers, 256 wide, 197 tokens, per target;
- latency: our graph against the same compiler graph as it is, through ONNX Runtime's own offline optimizer, and
  through onnxslim (in FOLDER, or installed); above 1 we are faster;
- limit: our graph's time over that of its matrix products alone, in a graph of their own;
- int8: FP32 over INT8, and how far the features differ, relative to their magnitude;
- digits: share of the demo's test images that its teacher gets right, in FP32 and in INT8;
- demo: the digits example itself, built in FP32 and in INT8 from the same trained members: test accuracy of all
  together, and FP32 over INT8 in time, member by member.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
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
from coformer_passes.runner import legalise
from coformer_targets import load_target, with_precision

TARGETS = ("cpu", "jetson-nano", "jetson-orin-nano@jp6.0", "jetson-orin-nano", "rtx-ada")
WIDTHS = (256, 384)
PAIRS = 40
RESULT = Path(__file__).parent / "results" / "passes.json"


def member(embed: int) -> ir.Model:
    """A member of 12 layers at 224 × 224 pixels, as the compiler lowers it."""
    from coformer_compiler.frontends import ModelSource, import_model

    options = {"embed_dim": embed, "depth": 12, "num_heads": embed // 64}
    teacher = import_model(ModelSource("timm:vit_tiny_patch16_224", "random", options=tuple(options.items())))
    model: ir.Model = teacher.eval().lower("member")
    return model


def products_alone(model: ir.Model) -> ir.Model:
    """The graph's matrix products and its convolution with nothing between: constants in, one number each out."""
    nodes, inputs, outputs, initializers = [], [], [], {}
    for number, node in enumerate(model.graph):
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        read = []
        for position, value in enumerate(node.inputs):
            if value is not None and value.const_value is not None:
                read.append(initializers.setdefault(value.name, _copy(value)))
                continue
            new = ir.Value(name=f"in.{number}.{position}", shape=value.shape, type=value.type)
            inputs.append(new)
            read.append(new)
        output = ir.Value(name=f"out.{number}", shape=node.outputs[0].shape, type=node.outputs[0].type)
        nodes.append(ir.node(node.op_type, read, node.attributes, outputs=[output]))
        outputs.append(output)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports=model.graph.opset_imports,
        name="products",
    )
    return ir.Model(graph, ir_version=model.ir_version)


def _copy(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value)


def session(path: Path, *, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """A session of one thread; with `optimised`, ONNX Runtime also writes there what its optimizer made."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(run: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Random inputs; cheap ones, as only the time counts."""
    random = np.random.default_rng(0)
    made = {}
    for value in run.get_inputs():
        if value.type == "tensor(uint8)":
            made[value.name] = random.integers(0, 256, value.shape, dtype=np.uint8)
        else:
            made[value.name] = random.standard_normal(value.shape, dtype=np.float32)
    return made


def median_ratio(other: onnxruntime.InferenceSession, ours: onnxruntime.InferenceSession) -> dict[str, float]:
    """Time of `other` over that of `ours`, alternating and taking turns at going first; the quartiles of the ratios."""
    sides = [(other, feeds(other)), (ours, feeds(ours))]
    times = np.zeros((PAIRS, 2))
    for run, feed in sides:
        run.run(None, feed)
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 else (1, 0):
            run, feed = sides[side]
            start = time.perf_counter()
            run.run(None, feed)
            times[pair, side] = time.perf_counter() - start
    low, median, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    milliseconds = np.median(times, axis=0) * 1e3
    return {
        "median_ratio": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "other_ms": round(float(milliseconds[0]), 3),
        "ours_ms": round(float(milliseconds[1]), 3),
    }


def measure(embed: int, folder: Path, slim: Any) -> dict[str, Any]:
    """All measurements of one width."""
    model = member(embed)
    size = [int(axis) for axis in model.graph.inputs[0].shape]
    golden = {"pixels": np.random.default_rng(0).integers(0, 256, (2, *size[1:]), dtype=np.uint8)}
    seconds, legal = {}, {}
    for name in TARGETS:
        start = time.process_time()
        legal[name] = legalise(model, load_target(name), golden)
        seconds[name] = round(time.process_time() - start, 3)
    start = time.process_time()
    integers = legalise(model, with_precision(load_target("cpu"), "int8"), golden)
    seconds["cpu int8"] = round(time.process_time() - start, 3)

    unfused = tuple(each for each in PIPELINES["onnxruntime"] if each is not fuse_attention)
    products = products_alone(legalise(model, load_target("cpu"), golden, passes=unfused))
    graphs = {"compiler": model, "ours": legal["cpu"], "int8": integers, "products": products}
    paths = {name: folder / f"{name}.onnx" for name in graphs}
    for name, graph in graphs.items():
        save_graph(graph, paths[name])
    session(paths["compiler"], optimised=folder / "ort.onnx")
    ours = session(paths["ours"])
    found: dict[str, Any] = {
        "legalise_cpu_seconds": seconds,
        "latency": {
            "ours against ours (noise)": median_ratio(session(paths["ours"]), ours),
            "compiler's graph": median_ratio(session(paths["compiler"]), ours),
            "ONNX Runtime's offline optimizer": median_ratio(session(folder / "ort.onnx"), ours),
        },
        "int8": median_ratio(ours, session(paths["int8"])),
    }
    if slim is not None:
        import onnx

        onnx.save(slim.slim(str(paths["compiler"])), folder / "slim.onnx")
        found["latency"]["onnxslim"] = median_ratio(session(folder / "slim.onnx"), ours)
    found["time over its matrix products alone"] = median_ratio(ours, session(paths["products"]))
    one = {"pixels": golden["pixels"][:1]}
    exact, rough = ours.run(None, one)[0], session(paths["int8"]).run(None, one)[0]
    found["int8"]["difference"] = round(float(np.abs(rough - exact).max() / np.abs(exact).max()), 4)
    return found


def digits_accuracy() -> dict[str, float]:
    """Of the demo's teacher on the demo's test images, as FP32 and as INT8 graphs."""
    from coformer_compiler.data.load import load_data
    from coformer_compiler.frontends import ModelSource, import_model

    shape = {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 6, "num_heads": 6, "in_chans": 1}
    checkpoint = Path(__file__).parents[1] / "examples" / "digits" / "teacher.safetensors"
    options = tuple({**shape, "num_classes": 10}.items())
    teacher = import_model(ModelSource("timm:vit_tiny_patch16_224", checkpoint=checkpoint, options=options))
    data = load_data("digits", image_size=8, channels=1)
    model = teacher.eval().lower("teacher", with_head=True)
    accuracy = {}
    for precision in ("float32", "int8"):
        legal = legalise(model, with_precision(load_target("cpu"), precision), {"pixels": data.validation.inputs[:8]})
        with tempfile.TemporaryDirectory() as folder:
            save_graph(legal, Path(folder) / "teacher.onnx")
            run = session(Path(folder) / "teacher.onnx")
            answers = [run.run(None, {"pixels": image[None]})[0].argmax() for image in data.test.inputs]
        accuracy[precision] = round(float(np.mean(np.array(answers) == data.test.labels)), 4)
    return accuracy


def digits_demo(folder: Path) -> dict[str, Any]:
    """The demo as it is shipped and in INT8; what is trained is the same, so that the second build trains nothing."""
    from coformer_compiler.compile import build
    from coformer_compiler.config import Overrides, read_config
    from coformer_compiler.progress import SilentProgress

    config = Path(__file__).parents[1] / "examples" / "digits" / "digits.toml"
    everyone, accuracy, graphs = "0-1-2", {}, {}
    for precision in ("float32", "int8"):
        report = build(read_config(config, Overrides(precision=precision)), folder, SilentProgress()).report
        computed = report.accuracy.lowered or report.accuracy
        accuracy[precision] = round(computed.subsets[everyone], 4)
        graphs[precision] = {
            path.parent.name: path.read_bytes() for path in sorted((folder / "bundles").glob("*/member.onnx"))
        }
    ratios = {}
    for name in graphs["int8"]:
        runs = []
        for precision, found in graphs.items():
            path = folder / f"{name}-{precision}.onnx"
            path.write_bytes(found[name])
            runs.append(session(path))
        ratios[name] = median_ratio(runs[0], runs[1])
    return {"accuracy": accuracy, "float32 over int8": ratios}


def integer_instructions() -> list[str]:
    """What the processor has for products of bytes: what int8 gains hangs on it."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return [name for name in ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "asimddp") if name in cpuinfo]


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--onnxslim", metavar="FOLDER", help="where onnxslim is, if it is not installed")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the figures go")
    options = parser.parse_args()
    if options.onnxslim:
        sys.path.append(options.onnxslim)
    try:
        import onnxslim
    except ImportError:
        onnxslim = None
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "integer instructions": integer_instructions(),
        "threads": 1,
        "pairs": PAIRS,
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "onnxslim": getattr(onnxslim, "__version__", None),
        },
    }
    for embed in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            result[f"12 layers, {embed} wide, 197 tokens"] = measure(embed, Path(folder), onnxslim)
    result["accuracy of the digits teacher"] = digits_accuracy()
    with tempfile.TemporaryDirectory() as folder:
        result["digits demo"] = digits_demo(Path(folder))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
