"""Untrained members of a tiny Swin that has really been trained: index selection against transplanting.

Run: python benchmarks/swin_transplant.py. Trains the stand-in on the digits first (8 x 8 tokens in windows of 4 x 4,
moved every other layer; two stages of two layers, 24 and 48 wide), then writes results/swin_transplant.json. Three
members of a third and two of a half of every width; figures are on the 700 validation and test images.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from coformer_compiler.data import DataSet, load_data
from coformer_compiler.decomposer.dealing import members_from_shapes
from coformer_compiler.decomposer.shapes import MemberShape
from coformer_compiler.frontends import ModelSource
from coformer_compiler.frontends.timm_source import verify_import
from coformer_compiler.frontends.timm_swin import transformer_from_swin
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.transplant import selection_of
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

RESULT = Path(__file__).parent / "results" / "swin_transplant.json"
NAME = "swin_tiny_patch4_window7_224"
OPTIONS = {
    "img_size": 8,
    "patch_size": 1,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (6, 12),
    "window_size": 4,
}
STEPS, BATCH, CALIBRATION = 1500, 64, 1024
PARTS = {"thirds": 3, "halves": 2}
METHODS = {"index selection": None, "transplant, one basis a stage": "global", "transplant, one per norm": "per-norm"}


def trained(data: DataSet) -> Transformer:
    """The stand-in, its training printed."""
    ensure_torchvision_operators()
    import timm

    torch.manual_seed(0)
    model = timm.create_model(NAME, drop_path_rate=0.0, **OPTIONS)
    images, labels = torch.from_numpy(np.asarray(data.train.inputs)), torch.from_numpy(data.train.labels)
    mean, std = 0.449 * 255, 0.226 * 255
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    )
    random = torch.Generator().manual_seed(0)
    model.train()
    for step in range(STEPS):
        picked = torch.randint(len(images), (BATCH,), generator=random)
        shifts = torch.randint(-1, 2, (2,), generator=random).tolist()
        pixels = (images[picked].float().roll(shifts, (2, 3)) - mean) / std
        loss = F.cross_entropy(model(pixels), labels[picked], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}  loss {float(loss.detach()):.3f}", flush=True)
    model.eval()
    source = ModelSource(f"timm:{NAME}", mean=(0.449,), std=(0.226,))
    teacher = transformer_from_swin(model, source)
    verify_import(model, teacher, source.name)
    return teacher


@torch.no_grad()
def main() -> None:
    """Train, transplant, print a table, write the figures."""
    data = load_data("digits", image_size=8, channels=1, calibration=CALIBRATION)
    start = time.process_time()
    with torch.enable_grad():
        teacher = trained(data)
    seconds = time.process_time() - start
    unseen = [*batches_of(data.validation), *batches_of(data.test)]
    labels = torch.cat([each for _, each in unseen])

    def figures(logits: torch.Tensor) -> dict[str, float]:
        right = 100 * float((logits.argmax(-1) == labels).float().mean())
        return {"accuracy": round(right, 2), "loss": round(float(F.cross_entropy(logits, labels)), 4)}

    result: dict[str, object] = {"training_cpu_seconds": round(seconds, 1), "calibration": CALIBRATION}
    result["teacher"] = figures(torch.cat([teacher(pixels) for pixels, _ in unseen]))
    print("teacher", result["teacher"])
    found = statistics_from_batches(teacher, batches_of(data.calibration))
    scores = {(block.kind, block.layer): s for block, s in zip(teacher.residuals, found.scores, strict=True)}
    lessons = [(pixels, teacher.features(pixels)) for pixels, _ in batches_of(data.calibration)]
    inputs = torch.from_numpy(np.asarray(data.calibration.inputs))
    for size, count in PARTS.items():
        units = {key: len(each) // count for key, each in scores.items()}
        shape = MemberShape(
            OPTIONS["embed_dim"] // count,  # type: ignore[operator]
            {layer: n for (kind, layer), n in units.items() if kind == "attention"},
            {layer: n for (kind, layer), n in units.items() if kind == "mlp"},
        )
        names, rows = [str(n) for n in range(count)], {}
        for method, basis in METHODS.items():
            channels = found.channel_scores if basis is None else None
            policies = members_from_shapes(names, [shape] * count, scores, channels)
            priors = None
            if basis is None:
                members = [teacher.take(selection_of(policy)) for policy in policies]
            else:
                made = transplant(teacher, found, policies, inputs, basis=basis)
                members, priors = made.members, made.priors
            aggregator = fit_readouts(members, teacher.head, lessons, priors)
            features = [torch.cat([member.features(pixels) for pixels, _ in unseen]) for member in members]
            alone = [figures(member.head(each)) for member, each in zip(members, features, strict=True)]
            rows[method] = {"aggregated": figures(aggregator(dict(enumerate(features)))), "members": alone}
            print(f"{size:7} {method:32} {rows[method]['aggregated']}", flush=True)
        result[size] = rows
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
