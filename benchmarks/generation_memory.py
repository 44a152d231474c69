"""What a generating device holds: one process with a member's graphs as the node opens them, of GPT-2's and T5's kind.

For comparison the way it was done before: three graphs with weights of their own, one of them for whole inputs. Figures
are of fresh processes, above what they have with ONNX Runtime imported: anonymous memory (what cannot be dropped), and
the proportional set size, which counts mapped pages once. `estimated_mb` is what the compiler's constraint C6 counts,
less the engine's own constant.

    python benchmarks/generation_memory.py      # half a minute; writes results/generation_memory.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "generation_memory.json"
LENGTH, ANSWER, WORDS = 128, 64, 32000


def spec_of(kind: str, width: int = 256, layers: int = 6) -> Any:
    """A member of a third to a half of GPT-2 small or T5 small."""
    from coformer_compiler.model.spec import (
        AttentionSpec,
        BridgeSpec,
        CrossAttentionSpec,
        HeadSpec,
        MlpSpec,
        NormSpec,
        PoolSpec,
        ResidualSpec,
        TokenStemSpec,
        TransformerSpec,
    )

    plain, mlp = NormSpec(width, "rms", affine=False), MlpSpec(width, 4 * width, width, "relu")
    if kind == "continues":
        branches = [(AttentionSpec(width, 4, 64, width, causal=True), mlp)] * layers
        stem, bridge = TokenStemSpec(LENGTH, WORDS + 1, WORDS, width), None
    else:
        stem = TokenStemSpec(LENGTH, WORDS, 0, width, positions=False, behind=ANSWER)
        text = TokenStemSpec(ANSWER, WORDS + 1, WORDS, width, positions=False, before=LENGTH)
        bridge = BridgeSpec(plain, text, 0)
        branches = [(AttentionSpec(width, 4, 64, width, score_bias=LENGTH), mlp)] * layers
        cross = CrossAttentionSpec(width, width, LENGTH, 4, 64, width)
        branches += [(AttentionSpec(width, 4, 64, width, score_bias=ANSWER, causal=True), cross, mlp)] * layers
    blocks: list[Any] = []
    for number, layer in enumerate(branches):
        blocks += [bridge] if bridge is not None and number == layers else []
        blocks += [ResidualSpec(number, plain, branch, True) for branch in layer]
    return TransformerSpec(stem, tuple(blocks), PoolSpec("causal", 0, plain, True), HeadSpec(8))


def write(kind: str, folder: Path) -> float:
    """Graphs as builds write them, and as they were; the estimate in megabytes."""
    import numpy as np
    import torch

    from coformer_compiler.evaluator.memory import memory_mb
    from coformer_compiler.model.decode import lower_decoder, lower_source
    from coformer_compiler.model.transformer import Transformer
    from coformer_compiler.stages.decoders import write_decoders
    from coformer_passes.graph_files import save_graph
    from coformer_passes.pipeline import PIPELINES
    from coformer_targets import load_target

    torch.manual_seed(0)
    target, model = load_target("cpu"), Transformer(spec_of(kind)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("words", "positions", "score_bias")):
                parameter.normal_(std=0.1)
    inputs = np.random.default_rng(0).integers(1, WORDS, (1, *model.spec.stem.input.shape), np.int32)
    (folder / "now").mkdir(parents=True)
    write_decoders(folder / "now", model, target, inputs, 1e-3)
    (folder / "before").mkdir()
    graphs = {"whole": model.lower("whole"), "step": lower_decoder(model, "step", 1)}
    graphs["other"] = lower_decoder(model, "prefill", 16) if kind == "continues" else lower_source(model, "source")
    for name, graph in graphs.items():
        for each in PIPELINES[target.engine]:
            each(graph, target)
        save_graph(graph, folder / "before" / f"{name}.onnx", inline_bytes=1)
    return memory_mb(model.cost(), target) - target.runtime_mb


def held(folder: Path) -> dict[str, float]:
    """Megabytes of a fresh process that has opened and run every graph in a folder."""
    done = subprocess.run([sys.executable, __file__, str(folder)], check=True, capture_output=True, text=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def open_and_run(folder: Path) -> None:
    """Print what this process holds more than before."""
    import numpy as np
    import onnxruntime  # noqa: F401 (what it takes itself is not counted)

    from coformer_runtime.engines.onnxruntime import OnnxRuntimeEngine

    before = _memory()
    engines = [OnnxRuntimeEngine(str(path), 1) for path in sorted(folder.rglob("*.onnx"))]
    for engine in engines:
        engine.run({spec.name: np.zeros(spec.shape, spec.dtype) for spec in engine.inputs})
    after = _memory()
    print(json.dumps({key: round(after[key] - before[key], 1) for key in after}))


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return {"anonymous_mb": found["Anonymous"], "proportional_mb": found["Pss"], "rss_mb": found["Rss"]}


def main() -> None:
    """Measure both kinds, and write the result."""
    result: dict[str, Any] = {}
    for kind in ("continues", "answers"):
        with tempfile.TemporaryDirectory() as folder:
            estimated = write(kind, Path(folder))
            sides = {side: held(Path(folder) / side) for side in ("before", "now")}
            disk = {
                side: sum(path.stat().st_size for path in (Path(folder) / side).rglob("*") if path.is_file()) / 1e6
                for side in sides
            }
        result[kind] = {
            "estimated_mb": round(estimated, 1),
            **sides,
            "disk_mb": {k: round(v, 1) for k, v in disk.items()},
        }
        print(kind, json.dumps(result[kind], indent=1))
    RESULT.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    open_and_run(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
