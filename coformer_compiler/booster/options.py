"""What a user can choose about the booster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coformer_runtime.errors import CoformerError

Weighting = Literal["none", "paper", "samme-r"]
Augmentation = Literal["none", "shift", "distort"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class BoosterOptions:
    """How the members are trained. The defaults are what measured best; docs say where the paper's letter differs.

    Attributes:
        steps: optimizer steps for each member alone; 0 leaves the members as they come.
        batch: samples a step, over all processes together.
        learning_rate: peak of the cosine for a member alone. Transplanted members want small steps (3e-4); from random
            weights 2e-3 gets further.
        weight_decay: of AdamW, on matrices only.
        joint_steps: optimizer steps in which members and aggregator train together; 0 for none.
        joint_learning_rate: peak of the cosine for them.
        member_loss: weight of the members' own losses beside the aggregated one in the joint phase.
        drop: probability that some of the members are left out of a joint step, so that what remains of a cluster
            answers well too; with 0 all steps train for the whole of it.
        token_loss: weight in the joint phase of the distance of the tokens from the teacher's, as they are before the
            mean; for models whose last step to the features is a mean over tokens. Long trainings gain by it.
        weighting: how eq. (13) moves the samples' weights between members; "none" leaves them equal.
        soft_targets: share of the loss that is the divergence from the teacher's soft decision; 0 is eq. (14).
        temperature: of that divergence.
        augmentation: "shift" moves training images by up to a sixteenth of their side; "distort" also turns, shears and
            stretches them a little.
        views: with augmentation, how many fixed views of each image there are, the image itself included; the teacher
            answers each of them once.
        refit_heads: whether a member's head may be replaced by the closed-form one where that validates better.
        checkpoint_every: steps between two checkpoints.
        seed: of the order of samples, of shifts and of the members that are dropped.
        half: whether a CPU too computes in bfloat16, as CUDA always does; weights and their moments stay float32.
            Worth it where the CPU has instructions for it (avx512_bf16, amx_bf16): there a step took a third less.
        device: "auto" takes CUDA where there is some.
    """

    steps: int = 200
    batch: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    joint_steps: int = 200
    joint_learning_rate: float = 2e-4
    member_loss: float = 1.0
    drop: float = 0.5
    token_loss: float = 0.0
    weighting: Weighting = "none"
    soft_targets: float = 0.0
    temperature: float = 2.0
    augmentation: Augmentation = "none"
    views: int = 8
    refit_heads: bool = True
    checkpoint_every: int = 100
    seed: int = 0
    half: bool = False
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            CoformerError: naming the option that is out of its range.
        """
        counts = {"steps": 0, "batch": 1, "joint_steps": 0, "views": 1, "checkpoint_every": 1, "seed": 0}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise out_of_range(name, getattr(self, name), f"give {least} or more")
        for name in ("learning_rate", "joint_learning_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise out_of_range(name, getattr(self, name), "give a number above 0")
        for name in ("weight_decay", "member_loss", "token_loss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise out_of_range(name, getattr(self, name), "give 0 or more")
        for name in ("soft_targets", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise out_of_range(name, getattr(self, name), "give a share from 0 to 1")
        for name, choices in (
            ("weighting", ("none", "paper", "samme-r")),
            ("augmentation", ("none", "shift", "distort")),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if getattr(self, name) not in choices:
                raise out_of_range(name, getattr(self, name), f"choose one of {', '.join(choices)}")


def out_of_range(name: str, value: object, mend: str) -> CoformerError:
    """The error for an option that cannot be."""
    return CoformerError(f"{name} = {value!r} is out of range", f"boost.{name}", mend)
