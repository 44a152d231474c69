"""Data kind `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, real images that need no download."""

from __future__ import annotations

import numpy as np

from coformer_compiler.data.dataset import Split, Splits, digest_of, stratified_order
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_pixels
from coformer_runtime.errors import CoformerError

TEST, VALIDATION = 400, 300
SPLIT_SEED = 0
"""Fixed: the teacher in examples/digits was trained on what this seed leaves for training."""


def read_digits(location: str, request: Request) -> Splits:
    """Reads the digits: 1,097 for training, 300 for validation, 400 for testing, stratified by class.

    Pixels come as 0..16 and are scaled to 0..255. Another size than 8 x 8 is reached by bilinear resizing.

    Raises:
        CoformerError: something follows the colon in the source.
    """
    if location:
        raise CoformerError(
            f"the kind 'digits' takes no location, got '{location}'",
            f"data.source '{request.source}'",
            "write data.source = \"digits\"",
        )
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    images = fit_pixels(pixels, request)
    labels = bunch.target.astype(np.int64)
    order = stratified_order(labels, SPLIT_SEED)
    test, validation, train = (
        Split(images[part], labels[part])
        for part in (order[:TEST], order[TEST : TEST + VALIDATION], order[TEST + VALIDATION :])
    )
    class_names = tuple(str(digit) for digit in range(10))
    return Splits(
        request.source, train, validation, test, class_names, digest_of((train, validation, test), class_names)
    )
