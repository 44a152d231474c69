"""Checkpoints in: each module maps one family of one library into the canonical transformer and proves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError


@dataclass(frozen=True)
class ModelSource:
    """Which model to import.

    Attributes:
        name: `LIBRARY:MODEL`, for example `timm:deit_base_patch16_224`; for `hf` the model is a folder, `checkpoint`.
        weights: "file" (see `checkpoint`), "hub" (the library downloads its own) or "random" (by `seed`; for studies of
            shape, memory and speed).
        checkpoint: a safetensors or pth file, or a folder in the hub's format.
        options: constructor options that differ from the named model's.
        mean, std: per channel, on a scale of 0 to 1; the model's own where None.
    """

    name: str
    weights: str = "file"
    checkpoint: Path | None = None
    options: tuple[tuple[str, int | float | str | bool | tuple[int, ...]], ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int = 0


def import_model(source: ModelSource) -> Transformer:
    """The canonical form of `source`, proved equal to the original on random inputs to 1e-4.

    Raises:
        CoformerError: for an unknown library or model, an unreadable checkpoint, or one of another architecture.
    """
    if source.weights == "file" and source.checkpoint is None:
        raise CoformerError(
            "no checkpoint", f"model '{source.name}'", "name a file, or ask for weights from the 'hub' or 'random' ones"
        )
    library, _, _ = source.name.partition(":")
    if library not in FRONTENDS:
        known = ", ".join(f"{name}:MODEL" for name in sorted(FRONTENDS))
        raise CoformerError(f"unknown model library '{library}'", f"model '{source.name}'", f"write one of {known}")
    return FRONTENDS[library](source)


def _timm(source: ModelSource) -> Transformer:
    from coformer_compiler.frontends.timm_source import transformer_from_timm

    return transformer_from_timm(source)


def _hf(source: ModelSource) -> Transformer:
    from coformer_compiler.frontends.hf import transformer_from_hf

    return transformer_from_hf(source)


FRONTENDS: dict[str, Callable[[ModelSource], Transformer]] = {"timm": _timm, "hf": _hf}
