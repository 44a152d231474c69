"""Trains the teacher of the digits example: a timm ViT of depth 6, width 96 and 6 heads on 8 x 8 pixels.

    python examples/digits/train_teacher.py

It takes about ten minutes on one core and writes `teacher.safetensors` (timm's own tensor names, float32) beside
itself. The same seed and the same versions give the same file. The test split is read once, at the end.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch.nn import functional

from coformer_compiler.data import Split, load_data
from coformer_compiler.torchvision_operators import ensure_torchvision_operators

NAME = "vit_tiny_patch16_224"
OPTIONS = {
    "img_size": 8,
    "patch_size": 2,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 6,
    "in_chans": 1,
    "num_classes": 10,
}


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels to -1..1, as timm's configuration of this model says (mean 0.5, deviation 0.5)."""
    return (pixels.to(torch.float32) / 255 - 0.5) / 0.5


def distort(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Turns, shears, scales and shifts each image (batch, 1, 8, 8) a little; what comes in from outside is paper."""
    count = len(images)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=random) * (high - low) + low

    angle, shear = uniform(-0.25, 0.25), uniform(-0.2, 0.2)
    across, down = uniform(0.85, 1.15), uniform(0.85, 1.15)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift_x, shift_y = uniform(-0.25, 0.25), uniform(-0.25, 0.25)  # of half the width: up to one pixel
    top = torch.stack([cos * across, (shear * cos - sin) * down, shift_x], dim=1)
    bottom = torch.stack([sin * across, (shear * sin + cos) * down, shift_y], dim=1)
    grid = functional.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


def accuracy(model: torch.nn.Module, split: Split) -> float:
    """Returns the share of the split that the model gets right."""
    model.eval()
    with torch.inference_mode():
        guess = model(normalise(torch.from_numpy(split.inputs))).argmax(dim=1)
    return float((guess == torch.from_numpy(split.labels)).double().mean())


def main() -> None:
    """Trains, reports and saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="part of what makes a run repeatable")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("teacher.safetensors"))
    options = parser.parse_args()

    ensure_torchvision_operators()
    import timm
    from safetensors.torch import save_file

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True)
    random = torch.Generator().manual_seed(options.seed)
    data = load_data("digits", image_size=OPTIONS["img_size"], channels=OPTIONS["in_chans"])
    images, labels = normalise(torch.from_numpy(data.train.inputs)), torch.from_numpy(data.train.labels)
    model = timm.create_model(NAME, drop_path_rate=0.1, **OPTIONS)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    per_epoch = math.ceil(len(images) / options.batch)
    steps, warmup = options.epochs * per_epoch, 10 * per_epoch

    def scale(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for picked in torch.randperm(len(images), generator=random).split(options.batch):
            loss = functional.cross_entropy(
                model(distort(images[picked], random)), labels[picked], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += float(loss.detach()) * len(picked)
        if (epoch + 1) % 20 == 0:
            validation = accuracy(average.module, data.validation)
            print(f"epoch {epoch + 1:4d}  loss {total / len(images):.4f}  validation {validation:.2%}", flush=True)

    teacher = average.module
    save_file({name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}, options.output)
    print(f"validation {accuracy(teacher, data.validation):.2%}, test {accuracy(teacher, data.test):.2%}")
    print(f"wrote {options.output} ({options.output.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
