"""The graphs of a member that takes tokens one after another, proved against torch.

One that continues texts has a graph for a token and one for a piece of a prompt; one that answers texts has a graph for
a token and one for the text that is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from coformer_compiler.model.decode import NEXT, PLACES, cache_shapes, lower_decoder, lower_source
from coformer_compiler.model.spec import TokenStemSpec, TransformerSpec
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer
from coformer_passes.graph_files import save_graph
from coformer_passes.runner import legalise
from coformer_runtime.errors import CheckFailed
from coformer_runtime.manifest import GenerationSpec, SourceSpec
from coformer_targets import Target, with_precision
from coformer_targets.tensorrt_rtx import write_plans

STEP, PREFILL, SOURCE = "decoder/step.onnx", "decoder/prefill.onnx", "decoder/source.onnx"
CHUNK = 16
"""Tokens of a prompt that a member reads at once."""
CHECKED = 6
"""Tokens behind a prompt, or of an answer, that are compared with torch."""

Feeds = dict[str, np.ndarray]


def generation_of(member: TransformerSpec, end: int | None) -> GenerationSpec | None:
    """How a member takes tokens, `end` being the word that ends a text; None for one that answers all at once."""
    if member.pool.kind != "causal":
        return None
    stem, texts = member.stem, member.texts
    assert isinstance(stem, TokenStemSpec) and isinstance(texts, TokenStemSpec)
    if member.bridge is None:
        return GenerationSpec(STEP, PREFILL, min(CHUNK, stem.length), stem.length, stem.pad, end)
    source = SourceSpec(SOURCE, stem.length, stem.pad, member.bridge.start)
    return GenerationSpec(STEP, None, None, texts.length, texts.pad, end, source)


@torch.no_grad()
def write_decoders(
    place: Path, member: Transformer, target: Target, inputs: np.ndarray, tolerance: float, inline_bytes: int
) -> None:
    """Write the graphs into a device's folder, legal for its target.

    Args:
        place: the folder.
        member: a causal model.
        target: its device's.
        inputs: inputs `(cases, …)` int32 that prove the graphs; the first is compared token by token.
        tolerance: largest |graph − torch| / (1 + |torch|).
        inline_bytes: weights of more than this lie beside a graph.

    Raises:
        CheckFailed: a graph gives other features than torch does for the whole text.
    """
    (place / "decoder").mkdir()
    # Half precision would round places beyond 2,048; int8 has no gain on single rows.
    target = with_precision(target, "float32") if target.precision == "int8" else target
    texts = member.texts.spec
    assert isinstance(texts, TokenStemSpec)
    begin = _with_prompt if member.bridge is None else _with_source
    first = begin(place, member, target, inputs[:1], inline_bytes)
    ids, caches, name = first.ids, first.caches, texts.input.name
    second = {**caches, **first.read, **_tokens(name, ids[:, first.done : first.done + 1], first.done, 1, texts)}
    step = legalise(lower_decoder(member, "step", 1), target, [second])
    save_graph(step, place / STEP, inline_bytes=inline_bytes)
    if first.features is not None:
        _compare(first.features, member, inputs[:1], ids[:, : first.done], tolerance, place / PREFILL)
    for done in range(first.done, min(first.done + CHECKED, texts.length)):
        feeds = {**caches, **first.read, **_tokens(name, ids[:, done : done + 1], done, 1, texts)}
        found = _outputs(place / STEP, feeds)
        caches = {cache: found[cache + NEXT] for cache in caches}
        _compare(found[FEATURES_NAME], member, inputs[:1], ids[:, : done + 1], tolerance, place / STEP)
    if target.engine == "tensorrt-rtx":
        for path in sorted((place / "decoder").glob("*.onnx")):
            write_plans(path, path.parent, (target.sm or 0,))


class _Begun(NamedTuple):
    """A text before its first step.

    Attributes:
        ids: int32 `(1, tokens)`, the whole text.
        done: how many of its tokens have been taken.
        caches: behind them.
        read: what is known of the text that it answers.
        features: behind the last of the tokens that have been taken.
    """

    ids: np.ndarray
    done: int
    caches: Feeds
    read: Feeds
    features: np.ndarray | None


def _empty(member: Transformer) -> Feeds:
    return {cache: np.zeros(shape, np.float32) for cache, shape in cache_shapes(member).items()}


def _with_prompt(place: Path, member: Transformer, target: Target, ids: np.ndarray, inline_bytes: int) -> _Begun:
    """Write the prefill graph, and let it take as much of the text as it can."""
    stem = member.stem.spec
    assert isinstance(stem, TokenStemSpec)
    chunk, empty = min(CHUNK, stem.length), _empty(member)
    prompt = min(chunk, stem.length - 1)
    first = {**empty, **_tokens(stem.input.name, ids[:, :prompt], 0, chunk, stem)}
    prefill = legalise(lower_decoder(member, "prefill", chunk), target, [first])
    save_graph(prefill, place / PREFILL, inline_bytes=inline_bytes)
    filled = _outputs(place / PREFILL, first)
    return _Begun(ids, prompt, {cache: filled[cache + NEXT] for cache in empty}, {}, filled[FEATURES_NAME])


def _with_source(place: Path, member: Transformer, target: Target, ids: np.ndarray, inline_bytes: int) -> _Begun:
    """Write the graph for the text that is read, and read it; the answer goes on with any words behind its own."""
    stem, texts = member.stem.spec, member.texts.spec
    assert isinstance(stem, TokenStemSpec) and isinstance(texts, TokenStemSpec)
    feeds = {stem.input.name: ids[:, : stem.length]}
    source = legalise(lower_source(member, "source"), target, [feeds])
    save_graph(source, place / SOURCE, inline_bytes=inline_bytes)
    written = ids[:, stem.length :]
    others = np.random.default_rng(0).integers(0, texts.pad, written.shape, np.int32)
    return _Begun(
        np.where(written == texts.pad, others, written), 0, _empty(member), _outputs(place / SOURCE, feeds), None
    )


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
    found: np.ndarray, member: Transformer, inputs: np.ndarray, text: np.ndarray, tolerance: float, path: Path
) -> None:
    """Compare the features behind `text` with torch's; `inputs` hold what was read before it."""
    texts, tokens = member.texts.spec, text.shape[1]
    assert isinstance(texts, TokenStemSpec)
    whole = inputs.copy()
    whole[:, texts.before :] = texts.pad
    whole[:, texts.before : texts.before + tokens] = text
    wanted = member.sent(torch.from_numpy(whole)).numpy()
    error = float(np.max(np.abs(found - wanted) / (1 + np.abs(wanted))))
    if not error <= tolerance:
        raise CheckFailed(
            f"the features behind {tokens} tokens differ from torch by {error:.1e}",
            f"graph {path}",
            "build again; if that does not help, report a bug of the lowering",
        )
