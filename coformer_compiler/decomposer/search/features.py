"""What the surrogate sees of a decomposition: sizes of its members, the largest first.

The loss of a cluster does not hang on which of its devices holds which member, and hardly on the numbers that encode
it; it hangs on how large the members are. Measured on 400 random policies of the digits (rank correlation of a Gaussian
process that has seen 50 of them): 0.48 on the points of the encoding, 0.78 on these features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coformer_compiler.decomposer.policy import TeacherShape
from coformer_compiler.evaluator.many import Candidates

Features = npt.NDArray[np.float64]


def features_of(candidates: Candidates, teacher: TeacherShape) -> Features:
    """`(candidates, 5 · devices + 5)`.

    Per member, by work, the largest first: share of embed, of layers, of heads, of neurons, and the root of the share
    of work; then the sums of these. Members that are left out are zeros.
    """
    embed = candidates.embed / teacher.embed
    depth = (candidates.heads > 0).mean(2)
    heads = candidates.heads.sum(2) / sum(teacher.heads)
    neurons = candidates.neurons.sum(2) / sum(teacher.neurons)
    root = np.sqrt(embed * (heads + 2 * neurons) / 3)
    members = np.stack([embed, depth, heads, neurons, root], -1)
    order = np.argsort(-root, axis=1, kind="stable")
    ranked = np.take_along_axis(members, order[..., None], 1)
    return np.concatenate([ranked.reshape(len(embed), -1), members.sum(1)], 1)
