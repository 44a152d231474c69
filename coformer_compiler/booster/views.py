"""Views: the training images, and distorted copies of them that the teacher has seen too.

Members trained for long on a few images learn those by heart. A distorted copy helps only with the teacher's answer to
that very copy, so the copies are few and fixed: view 0 is the image itself, the others are drawn once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from coformer_compiler.booster.options import Augmentation, BoosterOptions
from coformer_compiler.booster.schedule import VIEW, Indices, draws
from coformer_runtime.errors import CoformerError

Draws = npt.NDArray[np.float32]

NUMBERS = 6
"""Drawn for each view, from −1 to 1."""

TURN, SHEAR, STRETCH, MOVE = 0.2, 0.15, 0.12, 0.125
"""Largest turn in radians, shear, change of size, and move as a share of half the side."""


def view_count(options: BoosterOptions) -> int:
    """How many views there are of each image, the image itself included."""
    return 1 if options.augmentation == "none" else options.views


def view_of(
    inputs: torch.Tensor, picked: Indices, views: Indices, samples: int, options: BoosterOptions
) -> torch.Tensor:
    """The given views of images `(batch, channels, height, width)` uint8; without augmentation, of anything.

    Args:
        inputs: the images themselves.
        picked: which samples they are, `(batch,)`.
        views: which view of each, `(batch,)`.
        samples: size of the training split.
        options: for augmentation and seed.

    Raises:
        CoformerError: augmentation of what is no image.
    """
    if options.augmentation == "none":
        return inputs
    if inputs.dtype != torch.uint8:
        raise CoformerError(
            f"'{options.augmentation}' distorts images, the data is none", "boost.augmentation", "set it to 'none'"
        )
    drawn = np.zeros((len(picked), NUMBERS), np.float32)
    for view in np.unique(views[views > 0]):
        here = views == view
        drawn[here] = _draws_of_view(samples, options.seed, int(view))[picked[here]]
    return distorted(inputs, torch.from_numpy(drawn), options.augmentation)


def distorted(pixels: torch.Tensor, drawn: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Images turned, sheared, stretched and moved, or only moved, by their rows of `drawn` `(batch, 6)`.

    Zeros leave an image as it is. What comes in from outside is black.
    """
    turn, shear, across, down, right, below = (
        drawn * (augmentation == "distort" or torch.tensor([0.0] * 4 + [1.0] * 2))
    ).T
    cos, sin = torch.cos(TURN * turn), torch.sin(TURN * turn)
    across, down, shear = 1 + STRETCH * across, 1 + STRETCH * down, SHEAR * shear
    first = torch.stack([cos * across, (shear * cos - sin) * down, MOVE * right], 1)
    second = torch.stack([sin * across, (shear * sin + cos) * down, MOVE * below], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), grid, align_corners=False).round().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _draws_of_view(samples: int, seed: int, view: int) -> Draws:
    drawn = draws(seed, VIEW, view, 0).uniform(-1, 1, (samples, NUMBERS)).astype(np.float32)
    drawn.flags.writeable = False
    return drawn
