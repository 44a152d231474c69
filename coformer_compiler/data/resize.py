"""Brings images to the shape that the model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coformer_compiler.data.dataset import Images
from coformer_compiler.data.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image


def fit_pixels(pixels: Images, request: Request) -> Images:
    """Brings small images to the requested size and channels, without cropping.

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
        picture = Image.fromarray(image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0)))
        picture = _in_channels(picture, request)
        fitted[i] = _pixels_of(picture.resize((request.width, request.height), Image.Resampling.BICUBIC))
    return fitted


def fit_image(image: Image, request: Request) -> Images:
    """Scales a photograph until its centre crop covers the requested size, and crops: timm's evaluation transform.

    Returns:
        (request.channels, request.height, request.width) uint8.
    """
    from PIL import Image

    image = _in_channels(image, request)
    scale = max(request.height / image.height, request.width / image.width) / request.crop
    size = (max(round(image.width * scale), request.width), max(round(image.height * scale), request.height))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - request.width) // 2, (size[1] - request.height) // 2
    return _pixels_of(image.crop((left, top, left + request.width, top + request.height)))


def _in_channels(image: Image, request: Request) -> Image:
    return image.convert("L" if request.channels == 1 else "RGB")


def _pixels_of(image: Image) -> Images:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
