"""Trains the teacher of the glyphs example: a timm ViT of depth 6, width 96 and 6 heads on 24 x 24 pixels.

    sh examples/glyphs/get_fonts.sh build/fonts
    python examples/glyphs/train_teacher.py build/fonts

It takes about half an hour on one core and writes `teacher.safetensors` (timm's own tensor names, float32) beside
itself. The same seed, fonts and versions give the same file. The test split is read once, at the end.
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
    "img_size": 24,
    "patch_size": 4,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 6,
    "in_chans": 1,
    "num_classes": 34,
}


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels to -1..1, as timm's configuration of this model says (mean 0.5, deviation 0.5)."""
    return (pixels.to(torch.float32) / 255 - 0.5) / 0.5


@torch.inference_mode()
def accuracy(model: torch.nn.Module, split: Split) -> float:
    """Returns the share of the split that the model gets right."""
    model.eval()
    right = 0
    for first in range(0, len(split), 512):
        part = slice(first, first + 512)
        guess = model(normalise(torch.from_numpy(split.inputs[part]))).argmax(dim=1)
        right += int((guess == torch.from_numpy(split.labels[part])).sum())
    return right / len(split)


def main() -> None:
    """Trains, reports and saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fonts", help="the directory of fonts")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=96)
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
    data = load_data(f"glyphs:{options.fonts}", image_size=OPTIONS["img_size"], channels=OPTIONS["in_chans"])
    images, labels = torch.from_numpy(data.train.inputs), torch.from_numpy(data.train.labels)
    model = timm.create_model(NAME, drop_path_rate=0.05, **OPTIONS)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    warmup = 200

    def scale(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / options.steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    total = 0.0
    model.train()
    for step in range(options.steps):
        picked = torch.randint(len(images), (options.batch,), generator=random)
        loss = functional.cross_entropy(model(normalise(images[picked])), labels[picked], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        total += float(loss.detach())
        if (step + 1) % 250 == 0:
            validation = accuracy(average.module, data.validation)
            print(f"step {step + 1:5d}  loss {total / 250:.4f}  validation {validation:.2%}", flush=True)
            total = 0.0

    teacher = average.module
    save_file({name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}, options.output)
    print(f"validation {accuracy(teacher, data.validation):.2%}, test {accuracy(teacher, data.test):.2%}")
    print(f"wrote {options.output} ({options.output.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
