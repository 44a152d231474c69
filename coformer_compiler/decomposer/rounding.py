"""Shares to whole numbers: multiples of each device's alignment, by largest remainder, many policies at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coformer_runtime.errors import CoformerError

HALF = 0.5 - 1e-9
"""From this remainder on a part is rounded up; shares such as 1/3 carry an error of their own."""

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def rounded(
    total: int, shares: Sequence[float], steps: Sequence[int], constraint: str, what: str, *, overlap: bool
) -> list[int]:
    """Multiples of `steps`, at least one each, nearest to `total · share` under a sum of at most `total`.

    Raises:
        CoformerError: if there is not one step for everyone.
    """
    found = rounded_many(np.array(total), np.array([shares]), np.array(steps), constraint, what, overlap=overlap)
    return [int(count) for count in found[0]]


def rounded_many(
    totals: npt.NDArray[np.int64],
    shares: Floats,
    steps: npt.NDArray[np.int64],
    constraint: str,
    what: str,
    *,
    overlap: bool,
    taking: Booleans | None = None,
) -> Counts:
    """`rounded` of many rows, each by itself; zero for who does not take.

    Args:
        totals: what there is to share out, of the rows' shape or broadcast to it.
        shares: `(…, devices)`.
        steps: `(devices,)`.
        constraint: which one the sum is, for the error.
        what: is shared out, for the error.
        overlap: the sum has no limit.
        taking: `(…, devices)`, who gets a part; everyone where none.
    """
    taking = np.ones(shares.shape, bool) if taking is None else taking
    totals = np.broadcast_to(totals, shares.shape[:-1])
    if not overlap:
        _require_one_each(totals, (steps * taking).sum(-1), taking.sum(-1), constraint, what)
    exact = totals[..., None] * shares / steps
    parts = np.maximum(1, (exact + 1e-9).astype(np.int64)) * taking
    order = np.argsort(np.where(taking, parts - exact, np.inf), axis=-1, kind="stable")
    for turn in range(shares.shape[-1]):  # round up while there is room, the largest remainder first
        n = order[..., turn : turn + 1]
        part, step = np.take_along_axis(parts, n, -1)[..., 0], steps[n[..., 0]]
        up = np.take_along_axis(exact, n, -1)[..., 0] - part >= HALF
        up &= np.take_along_axis(taking, n, -1)[..., 0] & ((part + 1) * step <= totals)
        if not overlap:
            up &= (parts * steps).sum(-1) + step <= totals
        np.put_along_axis(parts, n, (part + up)[..., None], -1)
    while not overlap and (over := (parts * steps).sum(-1) > totals).any():
        n = np.argmax(np.where(parts > 1, parts - exact, -np.inf), axis=-1)[..., None]
        np.put_along_axis(parts, n, np.take_along_axis(parts, n, -1) - over[..., None], -1)
    found: Counts = parts * steps
    return found


def _require_one_each(totals: Counts, least: Counts, devices: Counts, constraint: str, what: str) -> None:
    short = np.argwhere(least > totals)
    if len(short):
        row = tuple(short[0])
        raise CoformerError(
            f"{constraint}: {devices[row]} devices need at least {least[row]} {what}, the teacher has {totals[row]}",
            "policy",
            "use fewer devices" if constraint == "C2" else "use fewer devices, or set policy.overlap = true",
        )
