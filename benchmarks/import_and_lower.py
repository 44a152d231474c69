"""How long the import and the lowering of large models take, and how much memory: BERT-Large's shape, random weights.

    python benchmarks/import_and_lower.py --out benchmarks/results/import_and_lower.json

Each step runs in a process of its own, so that its peak memory is its own; the import is verified against transformers'
model, which is part of its time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "num_labels": 2,
}
LENGTH = 128


def write_checkpoint(folder: Path) -> None:
    """A folder as transformers writes it."""
    from coformer_compiler.torchvision_operators import ensure_torchvision_operators

    ensure_torchvision_operators()
    from transformers import BertConfig, BertForSequenceClassification

    BertForSequenceClassification(BertConfig(**SHAPE)).save_pretrained(folder)


def import_and_lower(folder: Path) -> dict[str, float]:
    """Seconds of both steps, and the peak resident memory of this process in megabytes."""
    from coformer_compiler.frontends import ModelSource, import_model
    from coformer_compiler.stages.lower import inline_bytes_of
    from coformer_passes.graph_files import save_graph
    from coformer_targets import load_target

    began, processor = time.perf_counter(), time.process_time()
    model = import_model(ModelSource("hf:bert-large", "file", folder, (("length", LENGTH),)))
    imported, import_processor = time.perf_counter(), time.process_time()
    graph, inline = model.lower("bert-large", with_head=True), inline_bytes_of(load_target("cpu"))
    save_graph(graph, folder / "bert-large.onnx", inline_bytes=inline)
    done, lower_processor = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {
        "import_s": imported - began,
        "lower_s": done - imported,
        "import_processor_s": import_processor - processor,
        "lower_processor_s": lower_processor - import_processor,
        "peak_rss_mb": peak,
    }


def main() -> None:
    """Write a checkpoint, then measure in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        print(json.dumps(import_and_lower(options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6
        command = [sys.executable, __file__, "--folder", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = {"model": "BERT-Large shape", "length": LENGTH, "checkpoint_mb": size, **json.loads(done.stdout)}
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
