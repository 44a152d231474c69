"""Import and lowering of large vision models, and Swin's graph against torch.onnx.export's of the original.

Run: python benchmarks/vision_graphs.py. Writes benchmarks/results/vision_graphs.json. Weights are random (shape decides
time). Both graphs take uint8 pixels and give logits; they run in ONNX Runtime, one thread, alternating and taking turns
at going first, and the figure is the median of the ratios.
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
import torch

from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.timm_source import timm_from_source
from coformer_passes.runner import legalise
from coformer_targets import load_target

RESULT = Path(__file__).parent / "results" / "vision_graphs.json"
LARGE = ("vit_large_patch16_224", "swin_large_patch4_window7_224")
SWIN = "swin_tiny_patch4_window7_224"
PAIRS = 20


class FromPixels(torch.nn.Module):
    """timm's model with the normalisation in front."""

    def __init__(self, model: torch.nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        """`mean` and `std` in pixel units per channel."""
        super().__init__()
        self.model, self.mean, self.std = model, mean[:, None, None], std[:, None, None]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of uint8 pixels."""
        logits: torch.Tensor = self.model((pixels.float() - self.mean) / self.std)
        return logits


def import_and_lower(name: str) -> dict[str, float]:
    """Seconds, of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    model = import_model(ModelSource(f"timm:{name}", "random"))
    imported = time.perf_counter()
    model.lower("model", with_head=True)
    return {
        "import_s": round(imported - clock, 2),
        "lower_s": round(time.perf_counter() - imported, 2),
        "processor_s": round(time.process_time() - processor, 2),
    }


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def against_export(name: str, folder: Path) -> dict[str, Any]:
    """Our graph of the whole model and torch.onnx.export's."""
    source = ModelSource(f"timm:{name}", "random")
    imported = import_model(source)
    stem: Any = imported.stem
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    original = FromPixels(timm_from_source(source), stem.mean, stem.std).eval()
    ours, exported = folder / "ours.onnx", folder / "exported.onnx"
    graph = legalise(imported.lower("swin", with_head=True), load_target("cpu"), {"pixels": pixels.numpy()})
    ir.save(graph, ours)
    torch.onnx.export(original, (pixels,), exported, input_names=["pixels"], dynamo=True, verbose=False)
    sides = [session(ours), session(exported)]
    feed = {"pixels": pixels.numpy()}
    answers = [side.run(None, feed)[0] for side in sides]
    times = np.zeros((PAIRS, 2))
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 else (1, 0):
            began = time.perf_counter()
            sides[side].run(None, feed)
            times[pair, side] = time.perf_counter() - began
    low, median, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    return {
        "median_ratio": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "ours_ms": round(float(np.median(times[:, 0])) * 1e3, 2),
        "exported_ms": round(float(np.median(times[:, 1])) * 1e3, 2),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
    }


def main() -> None:
    """Measure, print and keep."""
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "threads": 1, "pairs": PAIRS}
    result["import and lower"] = {name: import_and_lower(name) for name in LARGE}
    with tempfile.TemporaryDirectory() as folder:
        result[f"{SWIN} against torch.onnx.export"] = against_export(SWIN, Path(folder))
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
