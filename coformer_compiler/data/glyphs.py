"""Data kind `glyphs:DIR`: letters and digits drawn from the font files of a directory.

34 classes: A to Z and 2 to 9 (0 and 1 are too much like O and I). A split has families of its own, so that validation
and test show letters in fonts that nobody has trained on.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coformer_compiler.data.dataset import Images, Splits
from coformer_compiler.data.pixel_cache import SPLIT_NAMES, Undecoded, splits_from_undecoded
from coformer_compiler.data.request import Request
from coformer_runtime.errors import CoformerError

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789")
SUFFIXES = frozenset({".ttf", ".otf"})
DRAWINGS = 2
"""Of each letter of a font, each turned, sized and placed a little differently."""
TEST_PER_CENT, VALIDATION_PER_CENT = 15, 10
DRAWN_AT = 96  # pixels per em, before the letter is brought to the image's size
MARGIN = 1 / 12  # of the image's side, around a letter that is neither shrunk nor moved
TURN, SHRINK, MOVE = 10.0, 0.25, 1 / 12  # degrees; share of the size; share of the side


class Glyph(NamedTuple):
    """One image to draw: which font, class and drawing."""

    path: Path
    label: int
    drawing: int


def read_glyphs(location: str, request: Request) -> Splits:
    """Draws the letters of all fonts under a directory, once, and keeps them in the cache.

    The first word of a font's family name decides its split (all of DejaVu is in one), whatever other fonts are
    there. Fonts that lack a letter are left out.

    Raises:
        CoformerError: there is no such directory, or no usable font in it.
    """
    root = Path(location).expanduser()
    if not location or not root.is_dir():
        raise CoformerError(f"there is no directory '{location}'", request.where, "name one that holds fonts")
    fonts = sorted({path.resolve() for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()})
    families = {path: family for path in fonts if (family := _family_of(path)) is not None}
    if not families:
        raise CoformerError(
            f"none of {len(fonts)} font files in '{root}' has all of {''.join(CLASSES)}",
            request.where,
            f"add fonts for Latin letters ({', '.join(sorted(SUFFIXES))})",
        )
    items: dict[str, list[Glyph]] = {name: [] for name in SPLIT_NAMES}
    for path, family in families.items():
        items[_split_of(family)] += [
            Glyph(path, label, drawing) for label in range(len(CLASSES)) for drawing in range(DRAWINGS)
        ]
    undecoded = Undecoded(
        key=_key_of(families, request),
        items=items,
        labels={name: np.array([glyph.label for glyph in items[name]], dtype=np.int64) for name in SPLIT_NAMES},
        class_names=CLASSES,
        decode=functools.partial(_draw, request=request),
    )
    return splits_from_undecoded(undecoded, request)


def _family_of(path: Path) -> str | None:
    """The first word of the family name; None for a font whose letters are not all there and all different."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(str(path), 32)
        shapes = {(mask.size, bytes(mask)) for mask in (font.getmask(letter) for letter in CLASSES) if any(mask.size)}
    except (OSError, ValueError):  # what Pillow raises for a file that is no font, or is damaged
        return None
    # A font draws what it lacks as the same box each time.
    return (font.getname()[0] or path.stem).split()[0] if len(shapes) == len(CLASSES) else None


def _split_of(family: str) -> str:
    place = int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") % 100
    if place < TEST_PER_CENT:
        return "test"
    return "validation" if place < TEST_PER_CENT + VALIDATION_PER_CENT else "train"


def _key_of(families: dict[Path, str], request: Request) -> str:
    digest = hashlib.sha256(repr(("glyphs 1", request.channels, request.height, request.width)).encode())
    for path, family in families.items():
        digest.update(repr((path.name, family)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _draw(glyph: Glyph, request: Request) -> Images:
    """White on black, `(channels, height, width)`; the same glyph is drawn the same each time."""
    from PIL import Image, ImageDraw, ImageFont

    text = f"{glyph.path.name}/{glyph.label}/{glyph.drawing}"
    random = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
    font = ImageFont.truetype(str(glyph.path), DRAWN_AT)
    left, top, right, bottom = font.getbbox(CLASSES[glyph.label])
    drawn = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), CLASSES[glyph.label], 255, font)
    drawn = drawn.rotate(random.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
    drawn = drawn.crop(drawn.getbbox())
    height, width = request.height, request.width
    scale = min(height * (1 - 2 * MARGIN) / drawn.height, width * (1 - 2 * MARGIN) / drawn.width)
    scale *= 1 - random.uniform(0, SHRINK)
    drawn = drawn.resize(
        (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.BICUBIC
    )
    across, down = random.uniform(-MOVE, MOVE, 2) * (width, height)
    image = Image.new("L", (width, height))
    image.paste(drawn, (round((width - drawn.width) / 2 + across), round((height - drawn.height) / 2 + down)))
    pixels = np.asarray(image, dtype=np.uint8)[None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (request.channels, height, width)))
