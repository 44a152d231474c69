"""What a data kind is asked for: the shape that the model takes, and where decoded images may be kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The images that a kind has to deliver.

    Attributes:
        source: the source as the user wrote it, for error messages.
        height: of an image, in pixels.
        width: of an image, in pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        crop: the share of a photograph that the centre crop keeps of the side that it does not cut, in 0..1.
        cache_dir: where decoded images may be kept from one build to the next.
    """

    source: str
    height: int
    width: int
    channels: int
    crop: float
    cache_dir: Path

    @property
    def where(self) -> str:
        """What error messages name."""
        return f"data.source '{self.source}'"
