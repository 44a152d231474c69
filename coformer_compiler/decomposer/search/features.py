"""What the surrogate sees of a decomposition: sizes of its largest members, and what all of them keep together.

The loss of a cluster does not hang on which of its devices holds which member, and hardly on the numbers that encode
it; it hangs on how large the largest members are, and in ratios: the logarithm of the loss over the logarithms of the
sizes. Measured on 489 random policies of the digits (rank correlation of a Gaussian process that has seen 60 of them
with the other losses): 0.41 on the points of the encoding, 0.72 on the shares of all members, 0.85 on these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.evaluator.many import Candidates

Features = npt.NDArray[np.float64]

LARGEST = 2
SMALLEST, SHALLOWEST = 0.03, 0.1
"""Added to shares of widths and of layers before the logarithm: less than this is as good as nothing."""


def features_of(candidates: Candidates, teacher: TeacherShape) -> Features:
    """`(candidates, 4 · min(devices, 2) + 3)`, and one more where there are more than two devices.

    Of the two largest members, the larger first: logarithms of the shares of embed, layers, heads and neurons; those of
    what all members keep together of embed, heads and neurons; the mean over all numbers of the smaller members.
    """
    embed = candidates.embed / teacher.embed
    depth = (candidates.heads > 0).mean(2)
    heads = candidates.heads.sum(2) / sum(teacher.heads)
    neurons = candidates.neurons.sum(2) / sum(teacher.neurons)
    logs = [
        np.log(each + least)
        for each, least in zip((embed, depth, heads, neurons), (SMALLEST, SHALLOWEST, SMALLEST, SMALLEST), strict=True)
    ]
    members = np.stack(logs, -1)
    # What a member is worth alone, roughly: its width counts most, its neurons least.
    order = np.argsort(-embed * np.sqrt(depth * heads * np.sqrt(neurons)), axis=1, kind="stable")
    ranked = np.take_along_axis(members, order[..., None], 1)
    together = np.log(np.stack([each.sum(1) for each in (embed, heads, neurons)], -1) + SMALLEST)
    parts = [ranked[:, :LARGEST].reshape(len(embed), -1), together]
    if embed.shape[1] > LARGEST:
        parts.append(ranked[:, LARGEST:].mean((1, 2))[:, None])
    return np.concatenate(parts, 1)
