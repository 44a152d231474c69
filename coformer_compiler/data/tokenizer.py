"""Texts to token numbers of one length, by the tokenizer that a model was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coformer_compiler.model.spec import TokenStemSpec
from coformer_runtime.errors import CoformerError

TOKENIZER = "tokenizer.json"
ENDS = ("<|endoftext|>", "</s>", "<eos>")
"""Names of the word that stands between texts."""
NO_TOKEN = "<|pad|>"
UNUSED_WORDS = 256
"""A model may have this many words more than its tokenizer: tables are made longer to a round number."""


@dataclass(frozen=True)
class Encoded:
    """Token numbers, int32 `(texts, length)` or `(texts, 2, length)`, and how many texts were cut to fit."""

    ids: npt.NDArray[np.int32]
    cut: int


class Tokenizer:
    """A tokenizer of the `tokenizers` library that fills up to one length.

    Attributes:
        content: its whole definition, the text of tokenizer.json.
        length: tokens of a text.
        pad: the word that it fills up with.
        rows: 2 where token types go along.
    """

    def __init__(self, content: str, rows: int, where: str) -> None:
        """Read a definition that `fitted` has written.

        Raises:
            CoformerError: the library is missing, or refuses the definition.
        """
        self.content, self.rows, self.where = content, rows, where
        self.library = _library(where).Tokenizer
        try:
            self.inner = self.library.from_str(content)
        except Exception as error:  # the library raises plain Exceptions
            raise CoformerError(f"not a tokenizer ({error})", where, "copy the checkpoint again") from error
        padding = self.inner.padding
        if not padding or not padding.get("length"):
            raise CoformerError("the tokenizer fills up to no fixed length", where, "build the bundle again")
        self.length: int = padding["length"]
        self.pad: int = padding["pad_id"]
        self.inner.no_truncation()

    @property
    def end(self) -> int | None:
        """The word that stands between texts, or none."""
        return next((number for name in ENDS if (number := self.inner.token_to_id(name)) is not None), None)

    def running(self, text: str) -> list[int]:
        """Token numbers of a text as it stands, of any length, without padding."""
        return [number for number in self.inner.encode(text).ids if number != self.pad]

    def written(self, texts: Sequence[str], length: int, *, truncate: bool = False) -> tuple[list[list[int]], int]:
        """Token numbers of texts that a decoder is to write, each with the word that ends it, and how many were cut.

        Raises:
            CoformerError: a text that is too long, or empty; a tokenizer without a word for the end.
        """
        end = self.end
        if end is None:
            raise CoformerError(
                f"the tokenizer has no word for the end of a text, none of {', '.join(ENDS)}",
                self.where,
                "use the tokenizer that the model was trained with",
            )
        found = [self.running(text) for text in texts]
        found = [each if each[-1:] == [end] else [*each, end] for each in found]
        for number, text in enumerate(texts):
            if not text.strip():
                raise CoformerError(f"target {number + 1} is empty", self.where, "give every target at least one word")
        long = [number for number, each in enumerate(found) if len(each) > length]
        if long and not truncate:
            first = max(long, key=lambda number: len(found[number]))
            raise CoformerError(
                f"{len(long)} of {len(texts)} targets are longer than {length} tokens; "
                f"target {first + 1} has {len(found[first])}: '{texts[first][:60]}'",
                self.where,
                "set model.options.target_length higher, or data.truncate = true to cut them",
            )
        return [each[:length] for each in found], len(long)

    def text_of(self, numbers: Sequence[int]) -> str:
        """The text that tokens stand for."""
        return str(self.inner.decode(list(numbers), skip_special_tokens=False))

    def name_of(self, number: int) -> str:
        """The text that a token stands for."""
        return self.text_of([number])

    def encode(self, texts: Sequence[str], seconds: Sequence[str] | None = None, *, truncate: bool = False) -> Encoded:
        """Token numbers of texts, or of pairs of texts.

        Args:
            texts: the texts, or the first of each pair.
            seconds: the second of each pair.
            truncate: cut what is too long instead of refusing it.

        Raises:
            CoformerError: a text that is too long, or empty.
        """
        given: list[Any] = list(texts) if seconds is None else list(zip(texts, seconds, strict=True))
        for number, text in enumerate(texts):
            if not text.strip():
                raise CoformerError(f"text {number + 1} is empty", self.where, "give every text at least one word")
            if seconds is not None and not seconds[number].strip():
                raise CoformerError(
                    f"the second text of pair {number + 1} is empty", self.where, "give every text at least one word"
                )
        found = self.inner.encode_batch(given)
        long = [number for number, each in enumerate(found) if len(each.ids) > self.length]
        if long and not truncate:
            first = max(long, key=lambda number: len(found[number].ids))
            raise CoformerError(
                f"{len(long)} of {len(texts)} texts are longer than {self.length} tokens; "
                f"text {first + 1} has {len(found[first].ids)}: '{texts[first][:60]}'",
                self.where,
                "set model.options.length higher, or data.truncate = true to cut them",
            )
        if long:
            self.inner.enable_truncation(self.length)
            for number, each in zip(long, self.inner.encode_batch([given[number] for number in long]), strict=True):
                found[number] = each
            self.inner.no_truncation()
        words = np.array([each.ids for each in found], np.int32).reshape(len(given), self.length)
        if self.rows == 1:
            return Encoded(words, len(long))
        types = np.array([each.type_ids for each in found], np.int32).reshape(len(given), self.length)
        return Encoded(np.stack([words, types], 1), len(long))


def read_tokenizer(folder: Path, stem: TokenStemSpec) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, made to fill up as the model wants it.

    Raises:
        CoformerError: no tokenizer, or one with another vocabulary than the model's.
    """
    where = f"tokenizer in {folder}"
    inner = _from_folder(folder, where)
    words = inner.get_vocab_size()
    if not stem.vocabulary - UNUSED_WORDS <= words <= stem.vocabulary:
        raise CoformerError(
            f"the tokenizer has {words} words, the model {stem.vocabulary}",
            where,
            "use the tokenizer that the model was trained with",
        )
    # A causal model has a word of its own behind all others for what is no token.
    pad = inner.id_to_token(stem.pad) or (NO_TOKEN if stem.pad == stem.vocabulary - 1 >= words else None)
    if pad is None or "pad" not in pad.lower():
        raise CoformerError(
            f"the model's padding is word {stem.pad}, which the tokenizer calls '{pad}'",
            where,
            "use the tokenizer that the model was trained with, or correct pad_token_id in config.json",
        )
    inner.no_truncation()
    inner.enable_padding(length=stem.length, pad_id=stem.pad, pad_token=pad)
    return Tokenizer(inner.to_str(), stem.types, where)


def _from_folder(folder: Path, where: str) -> Any:
    path = folder / TOKENIZER
    if path.is_file():
        try:
            return _library(where).Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exceptions
            raise CoformerError(f"{TOKENIZER} is no tokenizer ({error})", where, "copy the checkpoint again") from error
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True).backend_tokenizer
    except Exception as error:  # what the library raises for files that it does not find or like
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise CoformerError(
            f"no tokenizer that can be read ({first})", where, f"put {TOKENIZER}, or vocab.txt with its config, there"
        ) from error


def _library(where: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise CoformerError(
            f"tokenizers cannot be imported ({error})", where, "install it: pip install 'coformer-compiler[text]'"
        ) from error
    return tokenizers
