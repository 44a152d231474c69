"""T5's graph against torch.onnx.export's of the original: the encoder of Flan-T5-small's shape, 128 tokens.

Run: python benchmarks/text_graphs.py. Writes benchmarks/results/text_graphs.json. Weights are random (shape decides
time). Both graphs take int32 token numbers of one text, padded, and give a classifier's logits behind the mean; they
run
in ONNX Runtime, one thread, alternating and taking turns at going first, and the figure is the median of the ratios.
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
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_passes.runner import legalise
from coformer_targets import load_target

RESULT = Path(__file__).parent / "results" / "text_graphs.json"
LENGTH, WORDS, PAIRS = 128, 100, 40
SHAPE = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "num_labels": 24,
}


class FromIds(torch.nn.Module):
    """The library's encoder with the mask in front and the mean over words behind."""

    def __init__(self, model: torch.nn.Module) -> None:
        """A model that answers for every token."""
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of int32 token numbers `(1, length)`."""
        real = ids != 0
        answers = self.model(input_ids=ids.long(), attention_mask=real.long()).logits
        pooled: torch.Tensor = (answers * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return pooled


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def against_export(folder: Path) -> dict[str, Any]:
    """Our graph of the whole encoder and torch.onnx.export's."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForTokenClassification

    torch.manual_seed(0)
    # torch 2.13 cannot export its fused attention (a view of a transposed tensor), only the products written out.
    model = T5ForTokenClassification(T5Config(**SHAPE, attn_implementation="eager")).eval()
    model.save_pretrained(folder)
    clock = time.perf_counter()
    imported = import_model(ModelSource("hf:t5", "file", folder, (("length", LENGTH),)))
    read = time.perf_counter()
    ids = torch.randint(1, 32000, (1, LENGTH), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    ids[:, WORDS:] = 0
    ours, exported = folder / "ours.onnx", folder / "exported.onnx"
    lowered = imported.lower("t5", with_head=True)
    done = time.perf_counter()
    ir.save(legalise(lowered, load_target("cpu"), {"ids": ids.numpy()}), ours)
    began = time.perf_counter()
    torch.onnx.export(FromIds(model).eval(), (ids,), exported, input_names=["ids"], dynamo=True, verbose=False)
    export_s = time.perf_counter() - began
    sides = [session(ours), session(exported)]
    answers = [side.run(None, {"ids": ids.numpy()})[0] for side in sides]
    times = np.zeros((PAIRS, 2))
    for pair in range(PAIRS):
        for side in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            sides[side].run(None, {"ids": ids.numpy()})
            times[pair, side] = time.perf_counter() - start
    low, median, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    return {
        "median_ratio": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "ours_ms": round(float(np.median(times[:, 0])) * 1e3, 2),
        "exported_ms": round(float(np.median(times[:, 1])) * 1e3, 2),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
        "import_s": round(read - clock, 2),
        "lower_s": round(done - read, 2),
        "export_s": round(export_s, 2),
    }


def main() -> None:
    """Measure, print and keep."""
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "threads": 1, "pairs": PAIRS}
    with tempfile.TemporaryDirectory() as folder:
        result["flan-t5-small's encoder against torch.onnx.export"] = against_export(Path(folder))
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
