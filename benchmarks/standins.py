"""Tiny models that are really trained, for families whose trained weights no machine simply has.

Each function trains one through its own library, in a few CPU minutes, and imports it like any other.
`families_transplant.py` measures them.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from coformer_compiler.data import DataSet, load_data
from coformer_compiler.data.load import load_text2text, load_texts
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.frontends import ModelSource, import_model
from coformer_compiler.frontends.timm_source import verify_import
from coformer_compiler.frontends.timm_swin import transformer_from_swin
from coformer_compiler.model.spec import BridgeSpec, NormSpec, TokenStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators

ROOT = Path(__file__).parents[1]
TOPICS = ROOT / "build" / "debian-topics"
CALIBRATION = 1024

SWIN = "swin_tiny_patch4_window7_224"
SWIN_OPTIONS = {
    "img_size": 8,
    "patch_size": 1,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (6, 12),
    "window_size": 4,
}

WORDS, LENGTH = 4000, 24
T5_SHAPE = {
    "d_model": 72,
    "d_kv": 12,
    "num_heads": 6,
    "d_ff": 192,
    "num_layers": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.2,
}


def swin() -> tuple[Transformer, DataSet]:
    """8 × 8 tokens in windows of 4 × 4, moved every other layer; two stages of two layers, 24 and 48 wide; digits."""
    ensure_torchvision_operators()
    import timm

    data = load_data("digits", image_size=8, channels=1, calibration=CALIBRATION)
    torch.manual_seed(0)
    model = timm.create_model(SWIN, drop_path_rate=0.0, **SWIN_OPTIONS)
    images, labels = torch.from_numpy(np.asarray(data.train.inputs)), torch.from_numpy(data.train.labels)
    mean, std = 0.449 * 255, 0.226 * 255

    def loss_of(picked: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        shifts = torch.randint(-1, 2, (2,), generator=random).tolist()
        pixels = (images[picked].float().roll(shifts, (2, 3)) - mean) / std
        return F.cross_entropy(model(pixels), labels[picked], label_smoothing=0.05)

    train(model, loss_of, len(images), steps=1500, rate=2e-3)
    source = ModelSource(f"timm:{SWIN}", mean=(0.449,), std=(0.226,))
    teacher = transformer_from_swin(model, source)
    verify_import(model, teacher, source.name)
    return teacher, data


def t5() -> tuple[Transformer, DataSet]:
    """Four layers of T5 v1.1's encoder (RMSNorm, relative positions, gated GELU), 72 wide; Debian's topics."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForTokenClassification

    with _topics_folder() as folder:
        data = _topics(folder, TokenStemSpec(LENGTH, WORDS, 0, 72, positions=False))
        torch.manual_seed(0)
        config = T5Config(vocab_size=WORDS, num_labels=len(data.class_names), **T5_SHAPE)
        model: Any = T5ForTokenClassification(config)
        ids, labels = torch.from_numpy(np.asarray(data.train.inputs)), torch.from_numpy(data.train.labels)

        def loss_of(picked: torch.Tensor, random: torch.Generator) -> torch.Tensor:
            words = ids[picked]
            real = words != 0
            lost = (torch.rand(words.shape, generator=random) < 0.1) & real & (words != 1)
            words = words.masked_fill(lost, 2)  # words that it has to do without
            answers = model(input_ids=words.long(), attention_mask=real.long()).logits
            pooled = (answers * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            return F.cross_entropy(pooled, labels[picked], label_smoothing=0.1)

        train(model, loss_of, len(ids), steps=1200, rate=2e-3)
        model.save_pretrained(folder)
        return import_model(ModelSource("hf:t5", "file", folder, (("length", LENGTH),))), data


def dates() -> tuple[Transformer, DataSet]:
    """T5 v1.1 with its decoder, three layers each, 72 wide, letter by letter: dates in six forms to ISO 8601."""
    ensure_torchvision_operators()
    from transformers import T5Config, T5ForConditionalGeneration

    with tempfile.TemporaryDirectory() as path:
        folder, lengths = Path(path), (("length", 28), ("target_length", 11))
        rows = [json.dumps(dict(zip(("source", "target"), row, strict=True))) for row in _dates(14000)]
        (folder / "dates.jsonl").write_text("\n".join(rows), encoding="utf-8")
        letters = "0123456789-,/ abcdefghijklmnopqrstuvwxyz"
        names = {name: number for number, name in enumerate(("<pad>", "</s>", "<unk>", *letters))}
        _letters_tokenizer(names).save(str(folder / "tokenizer.json"))
        torch.manual_seed(0)
        shape = {**T5_SHAPE, "num_layers": 3, "dropout_rate": 0.0, "tie_word_embeddings": False}
        model: Any = T5ForConditionalGeneration(T5Config(vocab_size=len(names), decoder_start_token_id=0, **shape))
        stem = TokenStemSpec(28, len(names), 0, 72, positions=False, behind=11)
        text = TokenStemSpec(11, len(names) + 1, len(names), 72, positions=False, before=28)
        bridge = BridgeSpec(NormSpec(72, "rms"), text, 0)
        data = load_text2text(
            f"text2text:{folder / 'dates.jsonl'}", read_tokenizer(folder, stem), bridge, calibration=CALIBRATION
        )
        ids, labels = torch.from_numpy(np.asarray(data.train.inputs)).long(), torch.from_numpy(data.train.labels)

        def loss_of(picked: torch.Tensor, random: torch.Generator) -> torch.Tensor:
            read, written = ids[picked, :28], ids[picked, 28:].clamp(max=len(names) - 1)
            found = model(input_ids=read, attention_mask=(read != 0).long(), decoder_input_ids=written)
            return F.cross_entropy(found.logits.flatten(0, 1), labels[picked].flatten(), label_smoothing=0.05)

        train(model, loss_of, len(ids), steps=1000, rate=2e-3)
        model.save_pretrained(folder)
        return import_model(ModelSource("hf:dates", "file", folder, lengths)), data


def _dates(count: int) -> Iterator[tuple[str, str]]:
    """Dates of two centuries, each in one of six forms, and in ISO 8601."""
    random, first = np.random.default_rng(0), date(1900, 1, 1)
    forms = (
        "{d} {month} {y}",
        "{month} {d}, {y}",
        "{weekday} {d} {mon} {y}",
        "{d}/{m}/{y}",
        "{mon} {d} {y}",
        "{y} {month} {d}",
    )
    for day, form in zip(random.integers(0, 73049, count), random.integers(0, len(forms), count), strict=True):
        found = first + timedelta(days=int(day))
        names = {"month": "%B", "mon": "%b", "weekday": "%a"}
        told = {key: found.strftime(each).lower() for key, each in names.items()}
        yield forms[form].format(d=found.day, m=found.month, y=found.year, **told), found.isoformat()


def _letters_tokenizer(names: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    made: Any = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


STANDINS: dict[str, Callable[[], tuple[Transformer, DataSet]]] = {"Swin": swin, "T5": t5, "T5, whole": dates}
"""By family."""


@torch.enable_grad()
def train(
    model: nn.Module,
    loss_of: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    samples: int,
    *,
    steps: int,
    rate: float,
    batch: int = 64,
) -> None:
    """AdamW behind a warm-up, on a cosine; prints the loss now and then.

    Args:
        model: trained in place, in evaluation mode afterwards.
        loss_of: the loss of the given samples; may draw from the generator.
        samples: how many there are.
        steps: of `batch` samples each.
        rate: highest learning rate.
        batch: see `steps`.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    random = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps):
        loss = loss_of(torch.randint(samples, (batch,), generator=random), random)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}  loss {float(loss.detach()):.3f}", flush=True)
    model.eval()


def _topics(folder: Path, stem: TokenStemSpec) -> DataSet:
    tokenizer = read_tokenizer(folder, stem)
    return load_texts(f"text:{TOPICS / 'data'}", tokenizer, calibration=CALIBRATION, truncate=True)


@contextmanager
def _topics_folder() -> Iterator[Path]:
    """A folder with a tokenizer of the training descriptions' own most frequent words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if not (TOPICS / "data").is_dir():
        raise SystemExit("first: python examples/debian_topics/prepare.py build/debian-topics")
    rows = (TOPICS / "data" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    special = ["<pad>", "</s>", "<unk>"]
    made: Any = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.train_from_iterator(
        (row.split("\t")[0] for row in rows), trainers.WordLevelTrainer(vocab_size=WORDS, special_tokens=special)
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    with tempfile.TemporaryDirectory() as folder:
        made.save(str(Path(folder) / "tokenizer.json"))
        yield Path(folder)
