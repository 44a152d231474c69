"""The graphs of a member that continues texts: one for a token, one for a piece of a prompt; proved against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from coformer_compiler.model.decode import NEXT, PLACES, cache_shapes, lower_decoder
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer
from coformer_passes.graph_files import save_graph
from coformer_passes.runner import legalise
from coformer_runtime.errors import CheckFailed
from coformer_targets import Target, with_precision
from coformer_targets.tensorrt_rtx import write_plans

STEP, PREFILL = "decoder/step.onnx", "decoder/prefill.onnx"
CHUNK = 16
"""Tokens of a prompt that a member reads at once."""
CHECKED = 6
"""Tokens behind a prompt that are compared with torch."""

Feeds = dict[str, np.ndarray]


def chunk_of(stem: TokenStemSpec) -> int:
    """Tokens of the prefill graph."""
    return min(CHUNK, stem.length)


@torch.no_grad()
def write_decoders(
    place: Path, member: Transformer, target: Target, inputs: np.ndarray, tolerance: float, inline_bytes: int
) -> None:
    """Write both graphs into a device's folder, legal for its target.

    Args:
        place: the folder.
        member: a causal model.
        target: its device's.
        inputs: texts `(cases, length)` int32 that prove the graphs; the first is compared token by token.
        tolerance: largest |graph − torch| / (1 + |torch|).
        inline_bytes: weights of more than this lie beside a graph.

    Raises:
        CheckFailed: a graph gives other features than torch does for the whole text.
    """
    stem = member.stem.spec
    assert isinstance(stem, TokenStemSpec)
    (place / "decoder").mkdir()
    # Half precision would round places beyond 2,048; int8 has no gain on single rows.
    target = with_precision(target, "float32") if target.precision == "int8" else target
    name, chunk, length = stem.input.name, chunk_of(stem), stem.length
    empty = {cache: np.zeros(shape, np.float32) for cache, shape in cache_shapes(member).items()}
    ids = inputs[:1]
    prompt = min(chunk, length - 1)
    first = {**empty, **_tokens(name, ids[:, :prompt], 0, chunk, stem)}
    prefill = legalise(lower_decoder(member, "prefill", chunk), target, [first])
    save_graph(prefill, place / PREFILL, inline_bytes=inline_bytes)
    filled = _outputs(place / PREFILL, first)
    caches = {cache: filled[cache + NEXT] for cache in empty}
    second = {**caches, **_tokens(name, ids[:, prompt : prompt + 1], prompt, 1, stem)}
    step = legalise(lower_decoder(member, "step", 1), target, [second])
    save_graph(step, place / STEP, inline_bytes=inline_bytes)
    _compare(filled[FEATURES_NAME], member, ids, prompt, tolerance, place / PREFILL)
    for read in range(prompt, min(prompt + CHECKED, length)):
        found = _outputs(place / STEP, {**caches, **_tokens(name, ids[:, read : read + 1], read, 1, stem)})
        caches = {cache: found[cache + NEXT] for cache in empty}
        _compare(found[FEATURES_NAME], member, ids, read + 1, tolerance, place / STEP)
    if target.engine == "tensorrt-rtx":
        for path in (place / PREFILL, place / STEP):
            write_plans(path, path.parent, (target.sm or 0,))


def _tokens(name: str, ids: np.ndarray, first: int, size: int, stem: TokenStemSpec) -> Feeds:
    """Tokens and their places, filled up to `size`."""
    count = ids.shape[1]
    words = np.full((1, size), stem.pad, np.int32)
    places = np.full((1, size), stem.length, np.int32)
    words[:, :count], places[0, :count] = ids, np.arange(first, first + count)
    return {name: words, PLACES: places}


def _outputs(path: Path, feeds: Feeds) -> Feeds:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # the library's exceptions share no other base
        raise CheckFailed(f"ONNX Runtime does not run it ({error})", f"graph {path}", "build again") from error


def _compare(
    found: np.ndarray, member: Transformer, ids: np.ndarray, tokens: int, tolerance: float, path: Path
) -> None:
    stem = member.stem.spec
    assert isinstance(stem, TokenStemSpec)
    text = np.full_like(ids, stem.pad)
    text[:, :tokens] = ids[:, :tokens]
    wanted = member.sent(torch.from_numpy(text)).numpy()
    error = float(np.max(np.abs(found - wanted) / (1 + np.abs(wanted))))
    if not error <= tolerance:
        raise CheckFailed(
            f"the features behind {tokens} tokens differ from torch by {error:.1e}",
            f"graph {path}",
            "build again; if that does not help, report a bug of the lowering",
        )
