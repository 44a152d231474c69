"""DeiT-B, three members of three widths: their graphs for every Jetson, against torch, on logits.

Run: python benchmarks/deit_base_targets.py. Writes benchmarks/results/deit_base_targets.json.

A build of the compiler makes members and aggregator: DeiT-B with random weights of size 1/sqrt(fan in), so that no
output is near zero, shared out over three devices of unlike speed, transplanted from a few random images, not trained.
For every Jetson under each of its JetPacks, in float32 and float16, each member is lowered, checked by onnx.checker
and against the operator table, and runs in ONNX Runtime, float16 with every value rounded. Printed are:

- logits: greatest |graphs − torch| of all members together, behind the aggregator's graph, and of each member's head;
- relative: the same as a part of the greatest logit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coformer_compiler.commands.build_folder import open_build
from coformer_compiler.compile import build
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.model.system import System, load_system
from coformer_compiler.progress import RichProgress
from coformer_compiler.stages.lower import legal_graph, run_graph
from coformer_passes.check_operators import check_operators
from coformer_passes.graph_files import read_graph, save_graph
from coformer_passes.runner import legalise
from coformer_targets import Target, load_target, target_variants, with_precision

MODEL = "deit_base_patch16_224"
GFLOPS = (100, 60, 40)
LIMITS = {"float32": 1e-4, "float16": 1e-2}
RESULT = Path(__file__).parent / "results" / "deit_base_targets.json"

CONFIG = """
[model]
name = "timm:{model}"
checkpoint = "teacher.safetensors"
[model.options]
num_classes = 10
[data]
source = "npz:images.npz"
calibration = 16
[policy]
basis = "global"
[booster]
steps = 0
joint_steps = 0
"""
DEVICE = '[[devices]]\nname = "{}"\ntarget = "cpu"\ngflops = {}\nmemory_mb = 4096\n'


def made_system(folder: Path) -> System:
    """Members and aggregator, by a build."""
    from safetensors.torch import save_file

    from coformer_compiler.torchvision_operators import ensure_torchvision_operators

    ensure_torchvision_operators()
    import timm

    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in timm.create_model(MODEL, num_classes=10).state_dict().items():
        noise = torch.randn(tensor.shape, generator=random)
        if "norm" in name:
            tensors[name] = (1.0 if name.endswith("weight") else 0.0) + 0.1 * noise
        else:
            tensors[name] = noise / (tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 5.0)
    save_file(tensors, folder / "teacher.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 224, 224), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(40) % 10)
    devices = "".join(DEVICE.format(f"member-{n}", gflops) for n, gflops in enumerate(GFLOPS))
    (folder / "deit.toml").write_text(CONFIG.format(model=MODEL) + devices, encoding="utf-8")
    with RichProgress() as progress:
        build(read_config(folder / "deit.toml", Overrides()), folder / "out", progress)
    return load_system(open_build(folder / "out").system)


@torch.no_grad()
def measure(system: System, target: Target, pixels: torch.Tensor, folder: Path) -> dict[str, Any]:
    """All graphs of one target."""
    features = system.features(pixels)
    inputs, sent, seconds, heads = {"pixels": pixels.numpy()}, {}, [], []
    for n, member in enumerate(system.members):
        path = folder / f"member-{n}.onnx"
        began = time.process_time()
        model = legal_graph(member, target, pixels.numpy())
        seconds.append(round(time.process_time() - began, 2))
        save_graph(model, path)
        check_operators(read_graph(path), target)
        sent[n] = run_graph(path, inputs, "features", target.precision)
        wanted, found = (member.head(each) for each in (features[n], torch.from_numpy(sent[n])))
        heads.append([float((found - wanted).abs().max()), float(wanted.abs().max())])
    feed = {f"features_{n}": array for n, array in sent.items()}
    path = folder / "aggregator.onnx"
    single = with_precision(target, "float32")
    graph = legalise(system.aggregator.lower(tuple(sent)), single, feed)
    save_graph(graph, path)
    check_operators(read_graph(path), single)
    wanted = system.aggregator(features)
    found = torch.from_numpy(run_graph(path, feed, "logits"))
    heads.append([float((found - wanted).abs().max()), float(wanted.abs().max())])
    return {
        "members": heads[:-1],
        "together": heads[-1],
        "relative": max(difference / greatest for difference, greatest in heads),
        "logits": max(difference for difference, _ in heads),
        "legalise_cpu_seconds": seconds,
    }


def main() -> None:
    """Build, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="append", help="of these only, and keep nothing; repeatable")
    options = parser.parse_args()
    jetsons = [name for name in target_variants() if name.startswith("jetson") and load_target(name).jetpacks]
    names = options.target or [name for name in jetsons if "@" in name]
    result: dict[str, Any] = {"model": MODEL, "limits": {"float32": "1e-4 absolute", "float16": "1e-2 relative"}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        system = made_system(folder)
        result["widths"] = [member.spec.embed for member in system.members]
        pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        for name in names:
            for precision, limit in LIMITS.items():
                target = with_precision(load_target(name), precision)
                found = measure(system, target, pixels, folder)
                found["holds"] = found["logits" if precision == "float32" else "relative"] <= limit
                result[f"{name} {precision}"] = found
                print(f"{name:24} {precision}  logits {found['logits']:.1e}  relative {found['relative']:.1e}  "
                      f"{'holds' if found['holds'] else 'DOES NOT HOLD'}", flush=True)  # fmt: skip
    if not options.target:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
