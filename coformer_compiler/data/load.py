"""From `data.source` in the configuration to a data set."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path

from coformer_compiler.data.dataset import DataSet, Split, Splits, stratified_order
from coformer_compiler.data.digits import read_digits
from coformer_compiler.data.request import Request
from coformer_runtime.errors import CoformerError

KINDS: dict[str, Callable[[str, Request], Splits]] = {
    "digits": read_digits,
}
"""The word before the colon of a source, and the function that reads what follows the colon."""

CALIBRATION = 1024


def load_data(
    source: str,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    seed: int = 0,
    calibration: int = CALIBRATION,
    cache_dir: Path | None = None,
) -> DataSet:
    """Loads a data set and chooses its calibration samples.

    Args:
        source: `KIND` or `KIND:LOCATION`, such as "digits" or "imagefolder:flowers".
        image_size: height and width that the model takes, in pixels; one number for both.
        channels: 1 or 3.
        seed: of the choice of calibration samples. The splits do not depend on it.
        calibration: how many training samples to calibrate on; all where there are fewer.
        cache_dir: where decoded images are kept; by default `~/.cache/coformer/data`.

    Raises:
        CoformerError: unknown kind, missing or unreadable file, wrong shape, labels out of range, a class without images.
    """
    kind, _, location = source.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        raise CoformerError(
            f"unknown data kind '{kind}'",
            f"data.source '{source}'",
            f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(KINDS)}",
        )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1 or channels not in (1, 3):
        raise CoformerError(
            f"images of {channels} x {height} x {width} cannot be read from a data set",
            f"data.source '{source}'",
            "use a model of 1 or 3 channels and of at least one pixel",
        )
    if calibration < 1:
        raise CoformerError(
            f"{calibration} calibration samples asked for", "data.calibration", "ask for at least one"
        )
    request = Request(source, height, width, channels, cache_dir or Path.home() / ".cache" / "coformer" / "data")
    splits = KINDS[kind](location, request)
    chosen = stratified_order(splits.train.labels, seed)[:calibration]
    digest = hashlib.sha256(splits.sha256.encode() + chosen.astype("<i8").tobytes()).hexdigest()
    return DataSet(
        name=splits.name,
        train=splits.train,
        validation=splits.validation,
        calibration=Split(splits.train.images[chosen], splits.train.labels[chosen]),
        test=splits.test,
        class_names=splits.class_names,
        sha256=digest,
    )
