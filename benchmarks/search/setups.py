"""What the search benchmarks run on: the digits teacher, and a model of DeiT-S's shape.

DeiT-S's weights cannot be shipped, so its weights are random (by seed), its input is noise, and the loss is measured
against the teacher's own decisions: how much of an arbitrary network of that shape a decomposition keeps. Its head is
scaled so that the decisions are as sure as a trained model's. For searches of hundreds of policies the images are
64 × 64 (17 tokens) in place of 224 × 224; the shapes that are shared out are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.config import Overrides, read_config
from coformer_compiler.data import Split, load_data
from coformer_compiler.decomposer.policy import teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.space import Space
from coformer_compiler.decomposer.strategies import STRATEGIES
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import Network
from coformer_compiler.evaluator.recipe import Recipe, written_recipe
from coformer_compiler.evaluator.score import Loss, unit_ms
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_targets import load_target

ROOT = Path(__file__).parents[2]
DELTA = 0.1
CLASSES, SURE = 10, 4.0


@dataclass(frozen=True)
class Setup:
    """A teacher, its data and cluster, and the space that is searched."""

    name: str
    teacher: Transformer
    statistics: Statistics
    calibration: Split
    validation: Split
    devices: tuple[Device, ...]
    network: Network

    @property
    def space(self) -> Space:
        """Three devices, any of which but the central one may be left out."""
        influence = tuple(float(value) for value in self.statistics.influence)
        encoding = Encoding(teacher_shape(self.teacher.spec), self.devices, influence, False)
        return Space(encoding, self.teacher.spec, self.network, shortcuts=True)

    @property
    def delta_per_ms(self) -> float:
        """δ over the unit of T."""
        return DELTA / unit_ms(self.teacher.spec, self.devices)

    def starts(self) -> list[np.ndarray]:
        """Uniform, then proportional."""
        return [self.space.encoding.point_of_shares(shares(self.devices)) for shares in STRATEGIES.values()]

    def recipe(self, folder: Path, loss: Loss = "aggregated") -> Recipe:
        """An evaluator on disk."""
        made = Recipe(folder / f"{self.name}-{loss}", self.devices, "per-norm", self.network, DELTA, False, loss)
        return written_recipe(made, self.teacher, self.statistics, self.calibration, self.validation)


def digits() -> Setup:
    """The example's teacher and devices; 256 calibration samples, as the search's default."""
    config = read_config(ROOT / "examples" / "digits" / "digits.toml", Overrides())
    teacher = import_model(config.model)
    data = load_data(config.data.source, image_size=(8, 8), channels=1, seed=0, calibration=1024)
    statistics = statistics_from_batches(teacher, batches_of(data.calibration))
    calibration = Split(data.calibration.inputs[:256], data.calibration.labels[:256])
    return Setup("digits", teacher, statistics, calibration, data.validation, config.devices, Network())


def deit_small(size: int = 64, samples: int = 64, validation_samples: int = 128) -> Setup:
    """DeiT-S's shape on `size` × `size` noise, for a Jetson Orin Nano, a Xavier NX and a Raspberry Pi 5."""
    source = ModelSource(
        "timm:deit_small_patch16_224", "random", options=(("img_size", size), ("num_classes", CLASSES)), seed=0
    )
    teacher = import_model(source)
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        # Smooth noise: coarse random blocks, so that images differ in more than their mean.
        coarse = random.integers(0, 256, (count, 3, size // 8, size // 8), dtype=np.uint8)
        images = coarse.repeat(8, 2).repeat(8, 3)
        return Split(images, np.zeros(count, np.int64))

    calibration, validation = split(samples), split(validation_samples)
    with torch.no_grad():
        _make_sure(teacher, torch.from_numpy(calibration.inputs))
        calibration, validation = (
            Split(part.inputs, teacher(torch.from_numpy(part.inputs)).argmax(1).numpy())
            for part in (calibration, validation)
        )
    statistics = statistics_from_batches(teacher, batches_of(calibration, batch=16))
    targets = ("jetson-orin-nano", "jetson-xavier-nx", "raspberry-pi-5")
    boards = [load_target(name) for name in targets]
    devices = tuple(Device(t.name, t, t.gflops, float(t.memory_mb), None, n == 0) for n, t in enumerate(boards))
    return Setup("deit-small", teacher, statistics, calibration, validation, devices, Network(100.0, 0.5))


@torch.no_grad()
def _make_sure(teacher: Transformer, images: torch.Tensor) -> None:
    """Centre and scale the head's answers over the calibration set."""
    features = torch.cat([teacher.features(part) for part in images.split(16)])
    linear = teacher.head.linear
    logits = features @ linear.weight.T
    scale = SURE / logits.std(0).mean()
    linear.weight.mul_(scale)
    linear.bias.copy_(-(logits * scale).mean(0))


SETUPS = {"digits": digits, "deit-small": deit_small}
