"""Graphs of texts against torch.onnx.export's of the originals: Flan-T5-small's encoder, the whole of it, and GPT-2.

Run: python benchmarks/text_graphs.py [--only NAME] [--pairs N]. Writes benchmarks/results/text_graphs.json. Weights are
random (shape decides time). Both graphs of a row take the same int32 token numbers of one text and give the same
logits: of a classifier behind the mean over an encoder, of the next word for the others, where the library's own model
is asked for those of the last token alone. They run in ONNX Runtime, one thread, alternating and taking turns at going
first. The figure is the median of the ratios of processor seconds, which other load on the machine does not lengthen as
it does the clock's; the clock's stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
PAIRS = 40
FLAN = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
READ, WORDS, WRITTEN, CONTINUED = 128, 100, 64, 64
"""Tokens: of a text that is read, those of them that are no padding, of one that is written, of one to be continued."""


class Original(NamedTuple):
    """One row.

    Attributes:
        kind: the importer.
        model: the library's, random.
        exported: the same from token numbers to logits.
        options: of the import.
        ids: int32 `(1, numbers)`.
    """

    kind: str
    model: Any
    exported: torch.nn.Module
    options: tuple[tuple[str, int], ...]
    ids: torch.Tensor


class MeanOfWords(torch.nn.Module):
    """An encoder with the mask in front and the mean over words behind."""

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


class NextWord(torch.nn.Module):
    """A model that continues texts."""

    def __init__(self, model: torch.nn.Module) -> None:
        """With its head."""
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(1, words)` behind int32 token numbers `(1, length)`."""
        logits: torch.Tensor = self.model(input_ids=ids.long(), use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits


class NextWordOfAnswer(torch.nn.Module):
    """A model that answers texts, from both texts side by side."""

    def __init__(self, model: Any) -> None:
        """With its head."""
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(1, words)` behind the int32 numbers of a text that is read, and of what has been written."""
        read, written = ids[:, :READ].long(), ids[:, READ:].long()
        seen = (read != 0).long()
        memory = self.model.encoder(input_ids=read, attention_mask=seen).last_hidden_state
        stream = self.model.decoder(
            input_ids=written, encoder_hidden_states=memory, encoder_attention_mask=seen, use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = self.model.lm_head(stream[:, -1])
        return logits


def padded(numbers: int, words: int) -> torch.Tensor:
    """Random words, and padding behind as many of them, `(1, numbers)`."""
    ids = torch.randint(1, 32000, (1, numbers), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    ids[:, words:] = 0
    return ids


def encoder() -> Original:
    """Flan-T5-small's encoder with a classifier of 24 classes."""
    from transformers import T5Config, T5ForTokenClassification

    # torch 2.13 cannot export its fused attention (a view of a transposed tensor), only the products written out.
    model = T5ForTokenClassification(T5Config(**FLAN, num_labels=24, attn_implementation="eager")).eval()
    return Original("t5", model, MeanOfWords(model), (("length", READ),), padded(READ, WORDS))


def encoder_and_decoder() -> Original:
    """Flan-T5-small, a text that is read and all words of the answer but the next."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {**FLAN, "tie_word_embeddings": False, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(**shape, attn_implementation="eager")).eval()
    written = padded(WRITTEN, WRITTEN)
    written[:, 0] = 0
    ids = torch.cat([padded(READ, WORDS), written], 1)
    return Original("t5", model, NextWordOfAnswer(model), (("length", READ), ("target_length", WRITTEN)), ids)


def gpt2() -> Original:
    """GPT-2's smallest, 12 layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager")).eval()
    return Original("gpt2", model, NextWord(model), (("length", CONTINUED),), padded(CONTINUED, CONTINUED))


ORIGINALS: dict[str, Callable[[], Original]] = {
    "flan-t5-small's encoder": encoder,
    "flan-t5-small": encoder_and_decoder,
    "gpt2": gpt2,
}


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def against_export(name: str, folder: Path, pairs: int) -> dict[str, Any]:
    """Our graph and torch.onnx.export's, or why there is none."""
    ensure_torchvision_operators()
    torch.manual_seed(0)
    original = ORIGINALS[name]()
    original.model.save_pretrained(folder)
    clock, processor = time.perf_counter(), time.process_time()
    imported = import_model(ModelSource(f"hf:{original.kind}", "file", folder, original.options))
    read = time.perf_counter()
    lowered = imported.lower("whole", with_head=True)
    done, used = time.perf_counter(), time.process_time() - processor
    feed = {"ids": original.ids.numpy()}
    ours, exported = folder / "ours.onnx", folder / "exported.onnx"
    ir.save(legalise(lowered, load_target("cpu"), feed), ours)
    result = {"import_s": round(read - clock, 2), "lower_s": round(done - read, 2), "processor_s": round(used, 2)}
    began = time.perf_counter()
    try:
        torch.onnx.export(
            original.exported.eval(), (original.ids,), exported, input_names=["ids"], dynamo=True, verbose=False
        )
    except torch.onnx.errors.OnnxExporterError as error:
        return {**result, "torch.onnx.export refuses it": str(error).strip().splitlines()[0][:200]}
    result["export_s"] = round(time.perf_counter() - began, 2)
    return {**result, **alternating([session(ours), session(exported)], feed, pairs)}


def alternating(
    sides: list[onnxruntime.InferenceSession], feed: dict[str, np.ndarray], pairs: int
) -> dict[str, float | list[float]]:
    """Ratios of the first session's time to the second's."""
    answers = [side.run(None, feed)[0] for side in sides]
    clock, processor = np.zeros((pairs, 2)), np.zeros((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 else (1, 0):
            began, used = time.perf_counter(), time.thread_time()
            sides[side].run(None, feed)
            clock[pair, side], processor[pair, side] = time.perf_counter() - began, time.thread_time() - used
    low, median, high = np.percentile(processor[:, 0] / processor[:, 1], [25, 50, 75])
    ours, theirs = np.median(processor, 0) * 1e3
    return {
        "median_ratio": round(float(median), 4),
        "quartiles": [round(float(low), 4), round(float(high), 4)],
        "ratio_of_least": round(float(np.divide(*processor.min(0))), 4),
        "ours_ms": round(float(ours), 2),
        "exported_ms": round(float(theirs), 2),
        "median_ratio_by_the_clock": round(float(np.median(clock[:, 0] / clock[:, 1])), 4),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
    }


def commit() -> str:
    """Of this tree, and whether something is not in it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=ORIGINALS, help="one row, and keep nothing")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "commit": commit()}
    result |= {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "threads": 1, "pairs": options.pairs}
    for name in [options.only] if options.only else ORIGINALS:
        with tempfile.TemporaryDirectory() as folder:
            result[f"{name} against torch.onnx.export"] = against_export(name, Path(folder), options.pairs)
    if options.only is None:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
