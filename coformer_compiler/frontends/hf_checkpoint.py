"""A Hugging Face folder as read: config, tensors by name, options, and what of all this has been used."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coformer_compiler.model.linear import linear_over
from coformer_compiler.model.norm import Norm
from coformer_compiler.model.spec import Activation, NormKind, NormSpec
from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import nearest, suggestion

ACTIVATION_NAMES: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
}
"""The library's names of activations."""

WITH_DECODER = ("t5", "mt5")
"""Model types of an encoder and a decoder; config.json of such an encoder alone need not say so."""


DECODERS = ("gpt2",)
"""Model types that continue texts."""


@dataclass
class Checkpoint:
    """What an importer reads; every tensor that is read is noted, so that leftovers can be refused.

    Attributes:
        folder: where it lies.
        config: the library's config object.
        raw: config.json.
        tensors: by name.
        options: `[model.options]`.
        name: of the model, for messages.
        prefix: what the base model's tensors begin with, such as "bert.".
    """

    folder: Path
    config: Any
    raw: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    options: Mapping[str, int | float | str | bool | tuple[int, ...]]
    name: str
    prefix: str = ""
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Index the tensors by the names that the library gives them today."""
        self._by_modern_name = {_modern(name): name for name in self.tensors}

    @property
    def where(self) -> str:
        """What error messages name."""
        return f"checkpoint {self.folder}"

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._by_modern_name

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A tensor in float32, noted as used.

        Raises:
            CoformerError: it is missing or has another shape.
        """
        if not self.has(name):
            near = nearest(name, self._by_modern_name)
            there = f"; the nearest is '{near}'" if near else ""
            raise CoformerError(f"the tensor '{name}' is missing{there}", self.where, "copy the whole checkpoint")
        found = self.tensors[self._by_modern_name[name]]
        if tuple(found.shape) != tuple(shape):
            raise CoformerError(
                f"'{name}' is {list(found.shape)}, config.json says {list(shape)}",
                self.where,
                "use the config.json that belongs to these weights",
            )
        self.used.add(name)
        return found.float()

    def linear(self, name: str, inputs: int, outputs: int) -> nn.Linear:
        """A linear with bias, `NAME.weight` `(outputs, inputs)`, over the checkpoint's own tensors."""
        return linear_over(self.tensor(f"{name}.weight", (outputs, inputs)), self.tensor(f"{name}.bias", (outputs,)))

    def norm(self, name: str, width: int, eps: float, kind: NormKind = "layer") -> Norm:
        """A norm: `NAME.weight`, and for "layer" `NAME.bias`."""
        made = Norm(NormSpec(width, kind, eps))
        assert made.weight is not None
        with torch.no_grad():
            made.weight.copy_(self.tensor(f"{name}.weight", (width,)))
            if made.bias is not None:
                made.bias.copy_(self.tensor(f"{name}.bias", (width,)))
        return made

    def option(self, name: str, default: int | str | bool) -> Any:
        """An option of the default's type.

        Raises:
            CoformerError: another type.
        """
        value = self.options.get(name, default)
        if type(value) is not type(default):
            kind = {int: "a whole number", str: "a word", bool: "true or false"}[type(default)]
            raise CoformerError(f"{name} = {value!r} is not {kind}", f"model.options.{name}", f"give {kind}")
        return value

    def refuse_unknown_options(self, known: Sequence[str]) -> None:
        """Refuse options that no importer of this family reads."""
        for key in self.options:
            if key not in known:
                raise CoformerError(f"unknown option '{key}'", "model.options", suggestion(key, known, noun="option"))

    def refuse_leftovers(self, allowed: Sequence[str]) -> None:
        """Refuse tensors that nothing has read, except those whose names begin or end with one of `allowed`."""
        left = sorted(
            name
            for name in self._by_modern_name
            if name not in self.used and not name.startswith(tuple(allowed)) and not name.endswith(tuple(allowed))
        )
        if left:
            more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
            raise CoformerError(
                f"{len(left)} tensors belong to no part of a '{self.config.model_type}': {', '.join(left[:3])}{more}",
                self.where,
                "use the config.json that belongs to these weights",
            )

    def activation(self, name: str) -> Activation:
        """The canonical name of one of the library's activations.

        Raises:
            CoformerError: another one.
        """
        if name not in ACTIVATION_NAMES:
            known = tuple(ACTIVATION_NAMES)
            raise CoformerError(
                f"activation '{name}' is not supported", self.where, suggestion(name, known, noun="activation")
            )
        return ACTIVATION_NAMES[name]

    def sentence_transformers(self, part: str) -> dict[str, Any]:
        """A JSON file that sentence-transformers puts beside a model; empty where there is none."""
        path = self.folder / part
        if not path.is_file():
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content) if isinstance(content, dict) else {"modules": content}


def _modern(name: str) -> str:
    """Checkpoints converted from TensorFlow call gain and bias of a norm gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def random_tensors(config: Any, seed: int) -> dict[str, torch.Tensor]:
    """State dict of the library's own model for sequence classification with fresh weights.

    Of an encoder and decoder it is the one that writes texts where config.json names it, else the one for tokens, whose
    classifier stands on the encoder; of a decoder the one that continues texts.
    """
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    kind: Any = AutoModelForSequenceClassification
    if config.model_type in WITH_DECODER:
        writes = any(name.endswith("ForConditionalGeneration") for name in config.architectures or ())
        kind = AutoModelForSeq2SeqLM if writes else AutoModelForTokenClassification
    elif config.model_type in DECODERS:
        kind = AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        own = copy.deepcopy(config)  # a model notes in its config what it is
        model = kind.from_config(own)
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors
