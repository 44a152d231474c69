"""The graphs of a member that takes tokens one after another, proved against torch.

One that continues texts has a graph for a token and one for a piece of a prompt; one that answers texts has a graph for
a token and one for the text that is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from coformer_compiler.model.decode import (
    NEXT,
    PLACES,
    cache_shapes,
    lower_decoder,
    lower_source,
    source_shapes,
)
from coformer_compiler.model.spec import TokenStemSpec, TransformerSpec
from coformer_compiler.model.transformer import FEATURES_NAME, Transformer
from coformer_compiler.stages.rounded_graph import opened_graph
from coformer_passes.graph_files import save_graph
from coformer_passes.one_weights_file import WeightsFile
from coformer_passes.runner import legalise
from coformer_runtime.bundle import WEIGHTS_SUFFIX
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
def write_decoders(place: Path, member: Transformer, target: Target, inputs: np.ndarray, tolerance: float) -> None:
    """Write the graphs, and the one file of weights that they point into, into a device's folder, legal for its target.

    Args:
        place: the folder.
        member: a causal model.
        target: its device's.
        inputs: inputs `(cases, …)` int32 that prove the graphs; the first is compared token by token.
        tolerance: largest |graph − torch| / (1 + |torch|).

    Raises:
        CheckFailed: a graph gives other features than torch does for the whole text.
    """
    (place / "decoder").mkdir()
    # Integers have no gain on single rows.
    target = with_precision(target, "float32") if target.precision == "int8" else target
    texts = member.texts.spec
    assert isinstance(texts, TokenStemSpec)
    words, name = inputs[:1, texts.before :], texts.input.name
    with WeightsFile(place / f"{STEP}{WEIGHTS_SUFFIX}") as weights:

        def write(graph: ir.Model, feeds: Feeds, path: str) -> None:
            made = legalise(graph, target, [feeds])
            weights.take(made)
            save_graph(made, place / path, inline_bytes=sys.maxsize)  # what is left of it is small

        empty = {cache: np.zeros(shape, np.float32) for cache, shape in cache_shapes(member).items()}
        read = {known: np.zeros(shape, np.float32) for known, shape in source_shapes(member).items()}
        write(lower_decoder(member, "step", 1), {**empty, **read, **_tokens(name, words[:, :1], 0, 1, texts)}, STEP)
        if member.bridge is None:
            chunk = min(CHUNK, texts.length)
            first = _tokens(name, words[:, :chunk], 0, chunk, texts)
            write(lower_decoder(member, "prefill", chunk), {**empty, **first}, PREFILL)
        else:
            write(lower_source(member, "source"), {name: inputs[:1, : texts.before]}, SOURCE)
    prove_decoders(place, member, inputs[:1], empty, tolerance, target.precision)
    if target.engine == "tensorrt-rtx":
        for path in sorted((place / "decoder").glob("*.onnx")):
            write_plans(path, path.parent, (target.sm or 0,))


@torch.no_grad()
def prove_decoders(
    place: Path, member: Transformer, inputs: np.ndarray, caches: Feeds, tolerance: float, precision: str
) -> None:
    """Run the graphs, in their own precision, from empty caches on: a prompt or a text that is read, then tokens.

    Args:
        place: the folder that they are in.
        member: what they were written from.
        inputs: one input `(1, numbers)` int32, of a member that continues texts without padding.
        caches: zeros, by name.
        tolerance: largest |graph − torch| / (1 + |torch|).
        precision: that they compute in.

    Raises:
        CheckFailed: ONNX Runtime does not run a graph, or it gives other features than torch does for the whole text.
    """
    texts = member.texts.spec
    assert isinstance(texts, TokenStemSpec)
    name, words, read, done = texts.input.name, inputs[:, texts.before :], dict[str, np.ndarray](), 0
    if member.bridge is None:
        chunk = min(CHUNK, texts.length)
        done = min(chunk, texts.length - 1)
        with opened_graph(place / PREFILL, precision) as prefill:
            found = prefill.run({**caches, **_tokens(name, words[:, :done], 0, chunk, texts)})
        _compare(found[FEATURES_NAME], member, inputs, words[:, :done], tolerance, place / PREFILL)
        caches = {cache: found[cache + NEXT] for cache in caches}
    else:
        with opened_graph(place / SOURCE, precision) as source:
            read = source.run({name: inputs[:, : texts.before]})
        # An answer may be short; any words behind it will do.
        others = np.random.default_rng(0).integers(0, texts.pad, words.shape, np.int32)
        words = np.where(words == texts.pad, others, words)
    with opened_graph(place / STEP, precision) as step:
        for now in range(done, min(done + CHECKED, texts.length)):
            found = step.run({**caches, **read, **_tokens(name, words[:, now : now + 1], now, 1, texts)})
            caches = {cache: found[cache + NEXT] for cache in caches}
            _compare(found[FEATURES_NAME], member, inputs, words[:, : now + 1], tolerance, place / STEP)


def _tokens(name: str, ids: np.ndarray, first: int, size: int, stem: TokenStemSpec) -> Feeds:
    """Tokens and their places, filled up to `size`."""
    count = ids.shape[1]
    words = np.full((1, size), stem.pad, np.int32)
    places = np.full((1, size), stem.length, np.int32)
    words[:, :count], places[0, :count] = ids, np.arange(first, first + count)
    return {name: words, PLACES: places}


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
