"""Data kind `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, real images that need no download."""

from __future__ import annotations

import numpy as np

from coformer_compiler.data.dataset import Split, Splits, splits_of, stratified_order
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_pixels
from coformer_runtime.errors import CoformerError

TEST, VALIDATION = 400, 300
SPLIT_SEED = 0
"""Fixed: the teacher in examples/digits was trained on what this seed leaves for training."""


def read_digits(location: str, request: Request) -> Splits:
    """Reads the digits: 1,097 for training, 300 for validation, 400 for testing, stratified by class.

    Pixels come as 0..16 and are scaled to 0..255. Another size than 8 x 8 is reached by bicubic resizing.

    Raises:
        CoformerError: something follows the colon in the source.
    """
    if location:
        raise CoformerError(
            f"the kind 'digits' takes no location, got '{location}'", request.where, "write 'digits' alone"
        )
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = fit_pixels(np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None], request)
    labels = bunch.target.astype(np.int64)
    test, validation, train = (
        Split(images[part], labels[part])
        for part in np.split(stratified_order(labels, SPLIT_SEED), [TEST, TEST + VALIDATION])
    )
    return splits_of(train, validation, test, tuple(str(digit) for digit in range(10)))
