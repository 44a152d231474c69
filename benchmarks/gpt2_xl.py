"""A model nearly as large as a board's memory many times over: GPT-2 XL's shape compiled on one machine.

Run: python benchmarks/gpt2_xl.py. Writes benchmarks/results/gpt2_xl.json. Wants 30 GB of disk under --folder.

1.56 billion random float32 parameters are written as a Hugging Face folder, shard by shard. `coformerc build` takes
them through import, importance on eight texts, index slices of a third for a Jetson Nano, a TX2 and an Orin Nano, and
lowering in float16 with weights beside the graphs, in a process of its own, whose peak memory the kernel tells. Limits:
1.3 times the checkpoint's bytes, 15 minutes; the largest member needs 76.3 % less memory than the whole model (the
paper's figure) and fits its board. The paper's figure is of a member against the model, and that is what is held to
the limit, the aggregator counted where it is loaded; what the engine library takes does not depend on the model, and
the saving with it stands beside. Every term of C6 is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coformer_compiler.decomposer.policy import read_policy
from coformer_compiler.decomposer.shapes import feature_widths, member_cost, shape_of_member
from coformer_compiler.evaluator.memory import CACHED, aggregator_mb, memory_mb
from coformer_compiler.model.checkpoint import load_transformer
from coformer_compiler.model.cost import Cost
from coformer_compiler.model.mapped import write_tensors
from coformer_runtime.decoder import SESSIONS
from coformer_targets import Target, load_target, with_precision

XL = {"n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257}
SMALL = {"n_embd": 160, "n_layer": 4, "n_head": 5, "n_positions": 128, "vocab_size": 2048}
BOARDS = ("jetson-orin-nano", "jetson-tx2", "jetson-nano")
PRECISION = "float16"
LENGTH = 32
LAYERS_A_SHARD = 4
LIMITS = {"peak_over_checkpoint": 1.3, "minutes": 15.0, "saved": 0.763}
RESULT = Path(__file__).parent / "results" / "gpt2_xl.json"
END = "<|endoftext|>"

CONFIG = """
[model]
name = "hf:{folder}"
[model.options]
length = {length}
[data]
source = "corpus:{folder}/texts"
calibration = 8
[policy]
method = "index"
strategy = "uniform"
[booster]
steps = 0
joint_steps = 0
"""
DEVICE = '[[devices]]\nname = "{0}"\ntarget = "{0}"\nprecision = "{1}"\n'


def write_checkpoint(folder: Path, shape: dict[str, int]) -> int:
    """A Hugging Face folder of the shape; returns the bytes of its tensors. No more than a shard is in memory."""
    random = torch.Generator().manual_seed(0)
    width, layers = shape["n_embd"], shape["n_layer"]

    def normal(*size: int, scale: float = 0.02) -> torch.Tensor:
        return torch.empty(size).normal_(0, scale, generator=random)

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + normal(width), f"{name}.bias": normal(width)}

    def layer(number: int) -> dict[str, torch.Tensor]:
        name, written = f"transformer.h.{number}", 0.02 / (2 * layers) ** 0.5
        sizes = {
            "attn.c_attn": (width, 3 * width, 0.02),
            "attn.c_proj": (width, width, written),
            "mlp.c_fc": (width, 4 * width, 0.02),
            "mlp.c_proj": (4 * width, width, written),
        }
        made = norm(f"{name}.ln_1") | norm(f"{name}.ln_2")
        for part, (inputs, outputs, scale) in sizes.items():
            made[f"{name}.{part}.weight"] = normal(inputs, outputs, scale=scale)
            made[f"{name}.{part}.bias"] = normal(outputs)
        return made

    def shards() -> Any:
        tables = {"wte": (shape["vocab_size"], width), "wpe": (shape["n_positions"], width)}
        yield {f"transformer.{name}.weight": normal(*size) for name, size in tables.items()} | norm("transformer.ln_f")
        for first in range(0, layers, LAYERS_A_SHARD):
            several = (layer(number) for number in range(first, min(first + LAYERS_A_SHARD, layers)))
            yield {name: tensor for one in several for name, tensor in one.items()}

    count, places, size = 1 + -(-layers // LAYERS_A_SHARD), {}, 0
    for number, tensors in enumerate(shards(), 1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        write_tensors(folder / file, tensors, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    last = shape["vocab_size"] - 1  # the word that `write_texts` ends texts with
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": last, "eos_token_id": last}
    config |= shape
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return size


def write_texts(folder: Path, words: int) -> None:
    """A tokenizer of as many words, and texts of random ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {f"w{number}": number for number in range(words - 1)} | {END: words - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    random = np.random.default_rng(0)
    (folder / "texts").mkdir()
    for name, blocks in {"train": 8, "validation": 4, "test": 8}.items():
        text = " ".join(f"w{number}" for number in random.integers(0, words - 1, blocks * LENGTH))
        (folder / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")


def build(folder: Path) -> dict[str, Any]:
    """Run the compiler in a process of its own: its minutes, and its peak resident memory in bytes."""
    devices = "".join(DEVICE.format(board, PRECISION) for board in BOARDS)
    (folder / "xl.toml").write_text(CONFIG.format(folder=folder, length=LENGTH) + devices, encoding="utf-8")
    began = time.perf_counter()
    command = [sys.executable, "-m", "coformer_compiler", "build", str(folder / "xl.toml"), "-o", str(folder / "out")]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build failed: {' '.join(command)}")
    stages = {path.parent.parent.name: json.loads(path.read_text())["seconds"] for path in _records(folder)}
    return {
        "minutes": round((time.perf_counter() - began) / 60, 2),
        "processor_minutes": round((used.ru_utime + used.ru_stime) / 60, 2),
        "peak_rss": used.ru_maxrss * 1024,
        "stage_seconds": stages,
    }


def _records(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "cache").glob("*/*/artifact.json"), key=lambda path: path.stat().st_mtime)


def terms_mb(cost: Cost, target: Target, aggregator: float) -> dict[str, float]:
    """The terms of C6 in megabytes (10⁶ bytes); what they add up to is what `memory_mb` says, and the aggregator."""
    without = memory_mb(replace(cost, peak_elements=0), target, PRECISION)
    caches = (SESSIONS + 1) * CACHED * cost.cached / 1e6
    return {
        "weights": without - caches - target.runtime_mb,
        "activations": memory_mb(cost, target, PRECISION) - without,
        "keys_and_values": caches,
        "engine_library": target.runtime_mb,
        "aggregator": aggregator,
    }


def members(folder: Path) -> dict[str, Any]:
    """What each member needs of its board, and what the whole model would, in megabytes (see C6 of the policy)."""
    (teacher,) = (folder / "out" / "cache" / "import").glob("*/teacher.safetensors")
    whole = load_transformer(teacher)
    policy = read_policy(folder / "out" / "policy.json").members
    features = sum(feature_widths(whole.spec, [shape_of_member(member) for member in policy]))
    found: dict[str, Any] = {}
    for member in policy:
        bundle = folder / "out" / "bundles" / member.device
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        aggregates = bool(manifest["aggregators"])
        target = with_precision(load_target(member.device), PRECISION)
        cost = member_cost(whole.spec, shape_of_member(member), shortcuts=False)
        own = terms_mb(cost, target, aggregator_mb(whole.head.spec, float(features)) if aggregates else 0.0)
        every = terms_mb(whole.cost(with_head=True), target, 0.0)
        needed, all_of_it, library = sum(own.values()), sum(every.values()), target.runtime_mb
        member_alone = needed - library - own["aggregator"]
        found[member.device] = {
            "embed": member.embed,
            "parameters": cost.params,
            "central": aggregates,
            "needed_mb": round(needed, 1),
            "needed_mb_by_term": {name: round(value, 1) for name, value in own.items()},
            "board_mb": target.memory_mb,
            "whole_model_mb": round(all_of_it, 1),
            "whole_model_mb_by_term": {name: round(value, 1) for name, value in every.items()},
            "saved_by_the_member_alone": round(1 - member_alone / (all_of_it - library), 4),
            "saved": round(1 - (needed - library) / (all_of_it - library), 4),
            "saved_with_engine_library": round(1 - needed / all_of_it, 4),
            "fits": needed <= target.memory_mb,
            "graph_bytes": (bundle / "member.onnx").stat().st_size,
            "weights_beside_it_bytes": sum(path.stat().st_size for path in bundle.glob("member.onnx.data")),
        }
    return found


def main() -> None:
    """Write, build, look, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint and the build go for a while")
    parser.add_argument("--small", action="store_true", help="try it with a small shape, and keep nothing")
    options = parser.parse_args()
    shape = SMALL if options.small else XL
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        size = write_checkpoint(folder, shape)
        write_texts(folder, shape["vocab_size"])
        built, found = build(folder), members(folder)
    largest = max(
        found.values(), key=lambda member: member["needed_mb"] - member["needed_mb_by_term"]["engine_library"]
    )
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "shape": shape,
        "tokens_of_a_text": LENGTH,
        "checkpoint_bytes": size,
        **built,
        "peak_over_checkpoint": round(built["peak_rss"] / size, 3),
        "members": found,
        "limits": LIMITS,
        "holds": {
            "peak_over_checkpoint": built["peak_rss"] / size <= LIMITS["peak_over_checkpoint"],
            "minutes": built["minutes"] <= LIMITS["minutes"],
            "saved": largest["saved"] >= LIMITS["saved"],
            "fits": all(member["fits"] for member in found.values()),
        },
    }
    print(json.dumps(result, indent=1))
    if not options.small:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
