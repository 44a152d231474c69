"""Trains the teacher of the docstrings example: a GPT-2 of four layers, width 96, that continues Python's docstrings.

    python examples/docstrings/train_teacher.py build/docstrings

The text is that of the docstrings in this interpreter's standard library, so that nothing has to be fetched. Writes
`corpus.txt` and `teacher` (a Hugging Face folder with a byte-level tokenizer of 512 words) into the folder that is
named. A few minutes on one core. The blocks that the compiler holds out are held out here as well.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import sysconfig
from pathlib import Path

import torch

from coformer_compiler.data import load_running_text
from coformer_compiler.data.tokenizer import read_tokenizer
from coformer_compiler.model.spec import TokenStemSpec
from coformer_compiler.torchvision_operators import ensure_torchvision_operators

WORDS, LENGTH, END = 512, 64, "<|endoftext|>"
SHAPE = {"n_embd": 96, "n_layer": 4, "n_head": 6, "n_positions": LENGTH}
STEPS, BATCH, LEARNING_RATE = 800, 24, 4e-3
LONGEST, SHORTEST, CHARACTERS = 4000, 60, 1_500_000


def docstrings() -> list[str]:
    """Docstrings of the standard library, in the order of its files, up to `CHARACTERS`."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                if SHORTEST <= len(text) <= LONGEST and text.isascii():
                    found.append(text)
    found = list(dict.fromkeys(found))
    torch.manual_seed(0)
    found = [found[n] for n in torch.randperm(len(found)).tolist()]
    total = 0
    for number, text in enumerate(found):
        total += len(text)
        if total > CHARACTERS:
            return found[:number]
    return found


def write_tokenizer(corpus: Path, folder: Path) -> None:
    """A byte-level tokenizer of `WORDS` words, trained on the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train([str(corpus)], trainer)
    made.save(str(folder / "tokenizer.json"))


def train(folder: Path, corpus: Path) -> None:
    """Train the model and write it into `folder`, where the tokenizer is."""
    ensure_torchvision_operators()
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = read_tokenizer(folder, TokenStemSpec(LENGTH, WORDS + 1, WORDS, 1))
    data = load_running_text(f"corpus:{corpus}", tokenizer)
    inputs, validation = (torch.from_numpy(split.inputs).long() for split in (data.train, data.validation))
    torch.manual_seed(0)
    end = tokenizer.inner.token_to_id(END)
    config = GPT2Config(
        **SHAPE, vocab_size=WORDS, bos_token_id=end, eos_token_id=end, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    )
    random = torch.Generator().manual_seed(0)
    model.train()
    for step in range(STEPS):
        picked = inputs[torch.randint(len(inputs), (BATCH,), generator=random)]
        loss = model(input_ids=picked, labels=picked).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            with torch.no_grad():
                held_out = model(input_ids=validation[:256], labels=validation[:256]).loss
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}, held out {float(held_out):.3f}", flush=True)
    model.eval().save_pretrained(folder)


def main() -> None:
    """Corpus, tokenizer, training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where corpus.txt and teacher go")
    out: Path = parser.parse_args().folder
    (out / "teacher").mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.txt"
    corpus.write_text(f"{END}\n".join(docstrings()), encoding="utf-8")
    write_tokenizer(corpus, out / "teacher")
    train(out / "teacher", corpus)


if __name__ == "__main__":
    main()
