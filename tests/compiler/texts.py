"""A tiny encoder of texts on disk, with a tokenizer of its own, and a data set that it can read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.compiler.frontends.hf_models import hf_model, save_hf

WORDS = ("game", "strategy", "library", "parser", "editor", "text", "mail", "server", "web", "the", "of", "for", "and")
TOPICS = {"games": WORDS[:2], "libs": WORDS[2:4], "mail": WORDS[6:9]}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer_json(words: tuple[str, ...] = WORDS, size: int = 50) -> str:
    """A word tokenizer in the library's format, with unused words up to `size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = [*SPECIAL, *words]
    names += [f"[unused{n}]" for n in range(size - len(names))]
    made = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    text: str = made.to_str()
    return text


def causal_tokenizer_json(words: tuple[str, ...] = WORDS, size: int = 50) -> str:
    """The same for a model that continues texts: a word for the end of one, and none for padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<|endoftext|>", *words]
    names += [f"<unused{n}>" for n in range(size - len(names))]
    made = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    text: str = made.to_str()
    return text


def t5_tokenizer_json(words: tuple[str, ...] = WORDS, size: int = 50) -> str:
    """The same as T5 has it: texts end with a word for that."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<pad>", "</s>", "<unk>", *words]
    names += [f"<unused{n}>" for n in range(size - len(names))]
    made = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    text: str = made.to_str()
    return text


def write_teacher(folder: Path, kind: str = "bert", **options: Any) -> None:
    """A model folder with random weights, three labels unless told otherwise."""
    wide = {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 96}
    save_hf(hf_model(kind, **{"num_labels": 3, **wide, **options}), folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())


def rows(count: int, pairs: bool = False, seed: int = 0) -> list[tuple[str, ...]]:
    """(text, [other text,] label), the label in the words."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        topic = sorted(TOPICS)[number % 3]
        texts = [
            " ".join(draw.choice(TOPICS[topic] if draw.random() < 0.5 else WORDS) for _ in range(draw.randint(1, 6)))
            for _ in range(2 if pairs else 1)
        ]
        made.append((*texts, topic))
    return made


def write_tsv(path: Path, columns: tuple[str, ...], content: list[tuple[str, ...]]) -> None:
    """A table with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row) for row in [columns, *content]) + "\n", encoding="utf-8")


def write_config(folder: Path, **changes: str) -> Path:
    """A build of the tiny teacher for three devices, two steps each."""
    write_teacher(folder / "teacher")
    write_tsv(folder / "topics.tsv", ("text", "label"), rows(120))
    text = CONFIG
    for key, value in changes.items():
        text = text.replace(f"@{key}@", value)
    for key, value in {"source": "text:topics.tsv", "options": ""}.items():
        text = text.replace(f"@{key}@", value)
    path = folder / "texts.toml"
    path.write_text(text)
    return path


def write_causal_config(folder: Path, targets: tuple[str, ...] = ("cpu", "cpu", "cpu")) -> Path:
    """A build of a tiny GPT-2 for three devices, two steps each."""
    save_hf(hf_model("gpt2", n_embd=48, n_head=6, n_inner=96, max_position_embeddings=96), folder / "teacher")
    (folder / "teacher" / "tokenizer.json").write_text(causal_tokenizer_json())
    draw = random.Random(0)
    (folder / "corpus.txt").write_text(" ".join(draw.choice(WORDS) for _ in range(6000)))
    text = (
        CONFIG.replace("@source@", "corpus:corpus.txt").replace("@options@", "").replace("length = 10", "length = 96")
    )
    head, *devices = text.split("target = ")
    for target, rest in zip(targets, devices, strict=True):
        head += f'target = "{target}"' + rest[rest.index("\n") :]
    path = folder / "causal.toml"
    path.write_text(head.replace("calibration = 48", "calibration = 24").replace("batch = 16", "batch = 8"))
    return path


def write_text2text_config(folder: Path, targets: tuple[str, ...] = ("cpu", "cpu", "cpu"), **options: Any) -> Path:
    """A build of a tiny T5 for three devices, two steps each: texts of up to 20 tokens, answers of up to 64."""
    from coformer_compiler.torchvision_operators import ensure_torchvision_operators

    ensure_torchvision_operators()
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    shape = {"d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_heads": 6, "vocab_size": 50, **options}
    model = T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "relative" not in name:
                parameter.normal_(std=1.0 if name == "shared.weight" else parameter.shape[-1] ** -0.5)
    save_hf(model, folder / "teacher", tie_word_embeddings=False)
    weights = folder / "teacher" / "model.safetensors"  # a head of its own: a tied one would repeat each word for ever
    save_file({**load_file(weights), "lm_head.weight": torch.randn(50, 48) * 0.5}, weights, {"format": "pt"})
    (folder / "teacher" / "tokenizer.json").write_text(t5_tokenizer_json())
    draw = random.Random(0)
    content = []
    for _ in range(120):
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 9))]
        content.append((" ".join(words), " ".join(reversed(words))))
    write_tsv(folder / "reversed.tsv", ("source", "target"), content)
    text = CONFIG.replace("@source@", "text2text:reversed.tsv").replace("@options@", "target_length = 64")
    head, *devices = text.replace("length = 10", "length = 20", 1).split("target = ")
    for target, rest in zip(targets, devices, strict=True):
        head += f'target = "{target}"' + rest[rest.index("\n") :]
    path = folder / "text2text.toml"
    path.write_text(head)
    return path


def manifest_of(bundle: Path) -> dict[str, Any]:
    """The manifest as plain JSON."""
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return content


# "hall" is given some speed: a member four channels wide, fitted to 48 texts, gets weights that float32 cannot hold.
CONFIG = """\
title = "Texts"

[model]
name = "hf:teacher"

[model.options]
length = 10
@options@

[data]
source = "@source@"
calibration = 48

[[devices]]
name = "attic"
target = "cpu"

[[devices]]
name = "hall"
target = "raspberry-pi-4b"
gflops = 25.0

[[devices]]
name = "desk"
target = "jetson-nano"

[booster]
steps = 2
joint_steps = 2
batch = 16
device = "cpu"
"""
