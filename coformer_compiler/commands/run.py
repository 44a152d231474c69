"""`coformerc run`: one answer from a cluster of local processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.commands.build_folder import open_build
from coformer_compiler.data.request import Request
from coformer_compiler.data.resize import fit_image
from coformer_compiler.stages.measure import HOST_ENGINE
from coformer_runtime.answer import Answer
from coformer_runtime.cluster import LocalCluster
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import Manifest, load_manifest


def run_build(out: Path, file: Path, *, min_members: int | None = None, deadline_ms: int = 5000) -> dict[str, Any]:
    """Start every bundle as a local process, ask for one input's answer, and return it as JSON values."""
    build = open_build(out)
    manifests = [load_manifest(str(bundle)) for bundle in build.bundles]
    _refuse_foreign_engines(manifests)
    manifest = manifests[0]
    pixels = read_input(file, manifest)
    with (
        LocalCluster([str(b) for b in build.bundles], deadline_ms=deadline_ms, min_members=min_members) as cluster,
        cluster.client() as client,
    ):
        answers = [client.infer(pixels[n : n + 1]) for n in range(len(pixels))]
    return {"build": build.build, "answers": [_described(answer, manifest) for answer in answers]}


def _refuse_foreign_engines(manifests: Sequence[Manifest]) -> None:
    foreign = [each for each in manifests if each.engine.kind != HOST_ENGINE]
    if foreign:
        boards = ", ".join(f"'{each.device}' ({each.target}: {each.engine.kind})" for each in foreign)
        raise CoformerError(
            f"the engine of {boards} does not run on this machine",
            "cluster of local processes",
            "ship the bundles and start `coformer-node` on the boards, or build for targets that run here to try it",
        )


def read_input(path: Path, manifest: Manifest) -> np.ndarray:
    """uint8 pixels `(samples, channels, height, width)` from a .npy file or an image.

    Raises:
        CoformerError: for an unreadable file, another dtype or shape.
    """
    want = manifest.input.shape[1:]
    where, mend = f"input {path}", "give a .npy file of uint8 pixels, or an image that Pillow can read"
    if not path.is_file():
        raise CoformerError("there is no such file", where, mend)
    if path.suffix.lower() != ".npy":
        return _read_image(path, want, mend)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CoformerError(f"cannot be read ({error})", where, mend) from error
    samples = array[None] if array.ndim == len(want) else array
    if array.dtype != np.uint8 or samples.shape[1:] != want or not len(samples):
        sizes = ", ".join(map(str, want))
        raise CoformerError(
            f"holds {array.dtype} {list(array.shape)}", where, f"give uint8 [{sizes}] or [samples, {sizes}]"
        )
    return np.asarray(samples)


def _read_image(path: Path, want: tuple[int, ...], mend: str) -> np.ndarray:
    """Scaled and cropped as the compiler does with the photographs of an image folder."""
    from PIL import Image

    channels, height, width = want
    request = Request(str(path), height, width, channels, crop=1.0, cache_dir=path.parent)
    try:
        with Image.open(path) as image:
            return fit_image(image, request)[None]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise CoformerError(f"cannot be read ({error})", f"input {path}", mend) from error


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
