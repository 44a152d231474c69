"""`coformerc run`: one answer from a cluster of local processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.commands.build_folder import open_build
from coformer_runtime.answer import Answer
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import Manifest, load_manifest


def run_build(out: Path, file: Path, *, min_members: int | None = None, deadline_ms: int = 5000) -> dict[str, Any]:
    """Start every bundle as a local process, ask for one input's answer, and return it as JSON values."""
    build = open_build(out)
    manifest = load_manifest(str(build.bundles[0]))
    pixels = read_input(file, manifest)
    with (
        LocalCluster([str(b) for b in build.bundles], deadline_ms=deadline_ms, min_members=min_members) as cluster,
        cluster.client() as client,
    ):
        answers = [client.infer(pixels[n : n + 1]) for n in range(len(pixels))]
    return {"build": build.build, "answers": [_described(answer, manifest) for answer in answers]}


def read_input(path: Path, manifest: Manifest) -> np.ndarray:
    """uint8 pixels `(samples, channels, height, width)` from a .npy file or an image.

    Raises:
        CoformerError: for an unreadable file, another dtype or shape.
    """
    want = manifest.input.shape[1:]
    if path.suffix.lower() != ".npy":
        return _read_image(path, want)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CoformerError(f"cannot be read ({error})", f"input {path}", "give a .npy file or an image") from error
    array = array[None] if array.ndim == len(want) else array
    if array.dtype != np.uint8 or array.shape[1:] != want:
        shape = " x ".join(map(str, want))
        raise CoformerError(f"is {array.dtype} {list(array.shape)}", f"input {path}", f"give uint8 pixels, {shape}")
    return np.asarray(array)


def _read_image(path: Path, want: tuple[int, ...]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    channels, height, width = want
    try:
        with Image.open(path) as image:
            fitted = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError) as error:
        raise CoformerError(f"cannot be read ({error})", f"input {path}", "give a .npy file or an image") from error
    array = np.asarray(fitted, np.uint8)
    return array[None, None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))[None]


def _described(answer: Answer, manifest: Manifest) -> dict[str, Any]:
    logits = answer.logits[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = [int(n) for n in np.argsort(-shares, kind="stable")[:5]]
    labels = manifest.answer.labels
    return {
        "label": labels[best[0]] if labels else str(best[0]),
        "top": [{"label": labels[n] if labels else str(n), "probability": float(shares[n])} for n in best],
        "logits": [float(number) for number in logits],
        "members": list(answer.members),
        "degraded": answer.degraded,
        "missing": dict(answer.missing),
        "expected_accuracy": answer.expected_accuracy,
        "total_ms": answer.phases.total_ms,
        "compute_ms": dict(answer.phases.compute_ms),
    }
