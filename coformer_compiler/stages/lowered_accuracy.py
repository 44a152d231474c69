"""Accuracy of what was lowered to less than float32: the graphs themselves answer the test split.

A float32 graph is proved equal to torch, so that torch's accuracy is its own. Where a device computes in float16 or
int8, the figure has to be measured: its graph runs in ONNX Runtime, for float16 with every value rounded. Heads and
aggregators are float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from coformer_compiler.artifact import Artifact
from coformer_compiler.data.dataset import Split
from coformer_compiler.device import Device
from coformer_compiler.model.system import System
from coformer_compiler.model.token_stem import TokenStem
from coformer_compiler.progress import Progress
from coformer_compiler.stages.batches import batches_of
from coformer_compiler.stages.evaluate import SystemAccuracy, answers_from_features

RESULT = "accuracy.json"
WRITTEN_SAMPLES = 32
"""Texts of which every token is measured; each costs a graph as many runs as it has tokens."""

Features = Callable[[int, np.ndarray], np.ndarray]


def measure_lowered(
    folder: Path,
    system: System,
    devices: Sequence[Device],
    split: Split,
    features_of: Features,
    says: Progress,
) -> None:
    """Write the accuracies into the folder; nothing where all devices compute in float32.

    Args:
        folder: of the stage's artifact.
        system: computes in torch what is float32.
        devices: in member order; their targets say the precisions.
        split: the test samples.
        features_of: (member, inputs `(batch, …)`) → its features, by its graph.
        says: told how far it is.
    """
    if all(device.target.precision == "float32" for device in devices):
        return

    if system.members[0].bridge is not None:
        split = replace(split, inputs=split.inputs[:WRITTEN_SAMPLES], labels=split.labels[:WRITTEN_SAMPLES])

    def sent(n: int, inputs: torch.Tensor) -> torch.Tensor:
        """`(batch, d_n)`, of a causal model `(batch, 1, d_n)`: its graph answers for the last token.

        Of a text that answers another one all tokens, `(batch, tokens, d_n)`.
        """
        member = system.members[n]
        exact = devices[n].target.precision == "float32"
        if member.bridge is not None:
            return member.features(inputs) if exact else _of_all_tokens(member.bridge.stem, n, inputs, features_of)
        found = member.sent(inputs) if exact else torch.from_numpy(features_of(n, inputs.numpy()))
        return found[:, None] if member.spec.pool.kind == "causal" else found

    def batches() -> Iterator[tuple[dict[int, torch.Tensor], torch.Tensor]]:
        with says.stage("accuracy as built", total=len(split), unit="sample") as stage:
            for inputs, labels in batches_of(split):
                yield {n: sent(n, inputs) for n in range(len(devices))}, labels
                stage.advance(len(labels))

    result = answers_from_features(system, split.task, batches()).scored(split)
    (folder / RESULT).write_text(json.dumps(asdict(result), sort_keys=True), encoding="utf-8")


def _of_all_tokens(stem: TokenStem, n: int, inputs: torch.Tensor, features_of: Features) -> torch.Tensor:
    """Features of every token of the texts that are written, by graphs that give those of the last one."""
    first, length = stem.spec.before, stem.spec.length
    prefixes = inputs[:, None].repeat(1, length, 1)
    for written in range(1, length):
        prefixes[:, written - 1, first + written :] = stem.spec.pad
    found = torch.from_numpy(features_of(n, prefixes.flatten(0, 1).numpy()))
    return found.view(len(inputs), length, -1)


def lowered_accuracy_of(graphs: Artifact) -> SystemAccuracy | None:
    """The figures of a lowered system, None where all of it is float32."""
    path = graphs.path / RESULT
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    return SystemAccuracy(tuple(data["members"]), data["subsets"])
