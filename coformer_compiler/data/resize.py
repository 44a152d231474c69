"""Brings images to the shape that the model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coformer_compiler.data.dataset import Images
from coformer_compiler.data.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image


def fit_pixels(pixels: Images, request: Request) -> Images:
    """Brings small images to the requested size and channels.

    Args:
        pixels: (samples, channels, height, width) uint8, channels 1 or 3.
        request: the shape wanted.

    Returns:
        (samples, request.channels, request.height, request.width) uint8; `pixels` itself where nothing has to be done.
    """
    if pixels.shape[1:] == (request.channels, request.height, request.width):
        return pixels
    from PIL import Image

    fitted = np.empty((len(pixels), request.channels, request.height, request.width), dtype=np.uint8)
    for i, image in enumerate(pixels):
        grey = image.shape[0] == 1
        fitted[i] = fit_image(Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)), request)
    return fitted


def fit_image(image: Image, request: Request) -> Images:
    """Scales an image until it covers the requested size and crops its centre.

    Returns:
        (request.channels, request.height, request.width) uint8.
    """
    from PIL import Image

    image = image.convert("L" if request.channels == 1 else "RGB")
    scale = max(request.height / image.height, request.width / image.width)
    covering = (max(round(image.width * scale), request.width), max(round(image.height * scale), request.height))
    if covering != image.size:
        image = image.resize(covering, Image.Resampling.BILINEAR)
    left, top = (covering[0] - request.width) // 2, (covering[1] - request.height) // 2
    pixels = np.asarray(image.crop((left, top, left + request.width, top + request.height)), dtype=np.uint8)
    return pixels[None] if request.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
