"""DeiT-B, three members: time and memory from checkpoint to legal graphs, and our lowering against torch.onnx.export.

Run: python benchmarks/deit_base.py. Writes benchmarks/results/deit_base.json. Weights are random (the shape decides
time and memory); members are thirds by index slicing, so that no data is needed.

Three measurements, each in a process of its own:
- compile: import + slice + lower + legalise + write, seconds and peak resident memory;
- lowering: seconds to lower the first member, ours against torch.onnx.export, in one process, ratio;
- latency: ONNX Runtime, one thread, our legal graph against the exported one, alternating; median of pairwise ratios.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "timm:deit_base_patch16_224"
TARGET = "cpu"
PAIRS = 200
RESULT = Path(__file__).parent / "results" / "deit_base.json"


def compile_members(folder: Path) -> dict[str, Any]:
    """Everything from the checkpoint to three graph files, timed step by step."""
    import onnx_ir as ir
    import torch

    from coformer_compiler.frontends import ModelSource, import_model
    from coformer_compiler.stages.lower import legal_graph
    from coformer_targets import load_target

    seconds: dict[str, float] = {}
    began = time.perf_counter()
    teacher = import_model(ModelSource(MODEL, "random"))
    seconds["import"] = time.perf_counter() - began
    target = load_target(TARGET)
    pixels = torch.randint(
        0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    for name in ("slice", "lower_legalise", "write"):
        seconds[name] = 0.0
    for selection in thirds(teacher):
        start = time.perf_counter()
        member = teacher.take(selection).eval()
        sliced = time.perf_counter()
        model = legal_graph(member, target, pixels)
        legal = time.perf_counter()
        ir.save(model, folder / f"member-{selection.channels[0][0]}.onnx")
        seconds["slice"] += sliced - start
        seconds["lower_legalise"] += legal - sliced
        seconds["write"] += time.perf_counter() - legal
    seconds["total"] = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {"seconds": {k: round(v, 2) for k, v in seconds.items()}, "peak_rss_gib": round(peak, 2)}


def thirds(teacher: Any) -> list[Any]:
    """Index slices: every third channel, head and neuron."""
    from coformer_compiler.model.transformer import Selection

    spec = teacher.spec
    heads = {b.layer: b.branch.heads for b in spec.residuals if b.kind == "attention"}
    neurons = {b.layer: b.branch.neurons for b in spec.residuals if b.kind == "mlp"}
    return [
        Selection(
            (tuple(range(n, spec.embed, 3)),),
            {layer: tuple(range(n, count, 3)) for layer, count in heads.items()},
            {layer: tuple(range(n, count, 3)) for layer, count in neurons.items()},
        )
        for n in range(3)
    ]


def compare_with_export(folder: Path) -> dict[str, Any]:
    """Our lowering and graph against torch.onnx.export's, on the first member."""
    import numpy as np
    import onnx_ir as ir
    import onnxruntime
    import torch

    from coformer_compiler.frontends import ModelSource, import_model
    from coformer_compiler.stages.lower import legal_graph
    from coformer_targets import load_target

    class FromFloat(torch.nn.Module):
        def __init__(self, member: Any) -> None:
            super().__init__()
            self.member = member

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.member.features(pixels)
            return features

    teacher = import_model(ModelSource(MODEL, "random"))
    member = teacher.take(thirds(teacher)[0]).eval()
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours_s = min(timed(lambda: member.lower("member")) for _ in range(3))
    exported = folder / "exported.onnx"
    export_s = timed(
        lambda: torch.onnx.export(
            FromFloat(member), (pixels,), exported, input_names=["pixels"], dynamo=True, verbose=False
        )
    )
    ours = folder / "ours.onnx"
    ir.save(legal_graph(member, load_target(TARGET), pixels.numpy()), ours)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for p in (ours, exported)
    ]
    feeds = [{s.get_inputs()[0].name: pixels.numpy()} for s in sessions]
    outputs = [s.run(None, f)[0] for s, f in zip(sessions, feeds, strict=True)]
    pairs = []
    for turn in range(PAIRS):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        spent = {n: timed(lambda n=n: sessions[n].run(None, feeds[n])) for n in order}  # type: ignore[misc]
        pairs.append((spent[0] * 1e3, spent[1] * 1e3))
    ratios = [ours_ms / exported_ms for ours_ms, exported_ms in pairs]
    return {
        "lowering_s": {
            "ours": round(ours_s, 4),
            "torch_onnx_export": round(export_s, 3),
            "ratio": round(export_s / ours_s, 1),
        },
        "latency_ms": {
            "ours_median": round(float(np.median([p[0] for p in pairs])), 3),
            "exported_median": round(float(np.median([p[1] for p in pairs])), 3),
            "median_of_ratios": round(float(np.median(ratios)), 4),
            "pairs": PAIRS,
        },
        "largest_difference": float(np.abs(outputs[0] - outputs[1]).max()),
        "pairs_ms": [[round(a, 3), round(b, 3)] for a, b in pairs],
    }


def timed(run: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Run both parts in fresh processes, print and write the figures."""
    if len(sys.argv) > 1:
        part = {"compile": compile_members, "compare": compare_with_export}[sys.argv[1]]
        print(json.dumps(part(Path(sys.argv[2]))))
        return
    result: dict[str, Any] = {
        "model": MODEL,
        "members": 3,
        "target": TARGET,
        "machine": platform.processor() or platform.machine(),
    }
    for name in ("compile", "compare"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, name, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result[name] = json.loads(done.stdout.strip().splitlines()[-1])
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result["compare"].pop("pairs_ms")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
