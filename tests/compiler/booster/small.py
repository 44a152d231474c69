"""A teacher, members and data that train in a second, and a program that boosts them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.booster import BoosterOptions, BoosterResult, boost
from coformer_compiler.data import Split
from coformer_compiler.model.checkpoint import save_transformer
from coformer_compiler.model.spec import (
    AttentionSpec,
    HeadSpec,
    MlpSpec,
    NormSpec,
    PatchStemSpec,
    PoolSpec,
    ResidualSpec,
    TransformerSpec,
)
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress, SilentProgress

CLASSES = 3


def small_spec(embed: int) -> TransformerSpec:
    """One layer on four patches of two by two pixels."""
    norm = NormSpec(embed)
    return TransformerSpec(
        PatchStemSpec((4, 4), (2, 2), 1, embed, 1),
        (
            ResidualSpec(0, norm, AttentionSpec(embed, 2, 4, embed)),
            ResidualSpec(0, norm, MlpSpec(embed, 2 * embed, embed)),
        ),
        PoolSpec("prefix", 1, norm, True),
        HeadSpec(CLASSES),
    )


def small_model(embed: int, seed: int) -> Transformer:
    """Random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(small_spec(embed))
        model.stem.std.fill_(64)
        with torch.no_grad():
            model.stem.positions.normal_()
    return model.eval()


@lru_cache(maxsize=1)
def small_teacher() -> Transformer:
    """Trained until it is right nearly always."""
    teacher, split = small_model(12, 7), small_split(96, 1)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(60):
        logits = teacher(torch.from_numpy(split.inputs))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(split.labels)).backward()
        optimizer.step()
    return teacher


def small_members() -> list[Transformer]:
    """Three of unlike widths."""
    return [small_model(embed, seed) for seed, embed in enumerate((8, 6, 10))]


def small_split(samples: int, seed: int) -> Split:
    """Images whose brightest corner says the class, with noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=samples)
    images = random.integers(0, 120, (samples, 1, 4, 4), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * (label // 2) :, 2 * (label % 2) :][:2, :2] += 90
    return Split(images, labels)


def small_boost(
    workdir: Path,
    options: BoosterOptions,
    members: Sequence[Transformer] | None = None,
    progress: Progress | None = None,
) -> BoosterResult:
    """Boost the small members on 96 images."""
    return boost(
        small_teacher(),
        small_members() if members is None else members,
        small_split(96, 1),
        small_split(48, 2),
        options,
        workdir,
        progress or SilentProgress(),
    )


def write_result(folder: Path, result: BoosterResult) -> None:
    """All weights and the history, as files."""
    folder.mkdir(parents=True)
    for n, member in enumerate(result.members):
        save_transformer(folder / f"{n}.safetensors", member)
    weights = {name: tensor.double().tolist() for name, tensor in result.aggregator.state_dict().items()}
    (folder / "aggregator.json").write_text(json.dumps(weights, sort_keys=True))
    (folder / "history.json").write_text(json.dumps(result.history.to_json(), sort_keys=True))


def main(workdir: str, output: str, options: str) -> None:
    """Run as a program: `small.py WORKDIR OUTPUT OPTIONS-AS-JSON`."""
    torch.set_num_threads(1)
    rank = torch.distributed.get_node_local_rank(0)
    result = small_boost(Path(workdir), BoosterOptions(**json.loads(options)))
    write_result(Path(output) / str(rank), result)


if __name__ == "__main__":
    main(*sys.argv[1:])
