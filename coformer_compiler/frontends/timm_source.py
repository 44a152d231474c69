"""timm models: from a source to the library's own module, and on to the family's frontend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coformer_compiler.frontends import ModelSource, timm_beit, timm_swin, timm_vit
from coformer_compiler.frontends.weights import load_into, read_hub_folder, read_state_dict
from coformer_compiler.model.patch_stem import PatchStem
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.torchvision_operators import ensure_torchvision_operators
from coformer_runtime.errors import CheckFailed, CoformerError

TOLERANCE = 1e-4  # largest difference of logits between original and import, relative to the largest logit


@dataclass(frozen=True)
class Family:
    """A family of timm models.

    Attributes:
        options: of the constructor, those that change the shape.
        convert: the timm module to its canonical form.
    """

    options: tuple[str, ...]
    convert: Callable[[nn.Module, ModelSource], Transformer]


_VIT = Family(timm_vit.OPTIONS, timm_vit.transformer_from_vit)
FAMILIES = {
    "vision_transformer": _VIT,
    "deit": _VIT,
    "beit": Family(timm_beit.OPTIONS, timm_beit.transformer_from_beit),
    "swin_transformer": Family(timm_swin.OPTIONS, timm_swin.transformer_from_swin),
}
"""By the module of timm that makes the model."""


def transformer_from_timm(source: ModelSource) -> Transformer:
    """Import `timm:NAME`; see `coformer_compiler.frontends.import_model`."""
    family = _family_of(source)
    original = timm_from_source(source)
    imported = family.convert(original, source)
    verify_import(original, imported, source.name)
    return imported


def _family_of(source: ModelSource) -> Family:
    import difflib

    ensure_torchvision_operators()
    import timm

    name = source.name.partition(":")[2]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.4)
        raise CoformerError(
            f"timm has no model '{name}'", "model.name", f"did you mean {' or '.join(near) or 'another'}?"
        )
    module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    if module not in FAMILIES:
        near = difflib.get_close_matches(module, FAMILIES, 1, 0)
        raise CoformerError(
            f"cannot be imported: its family is '{module}'",
            f"model '{source.name}'",
            f"the importable families are {', '.join(FAMILIES)}; the nearest is {near[0]}",
        )
    return FAMILIES[module]


def timm_from_source(source: ModelSource) -> nn.Module:
    """The timm model itself, with its weights, in evaluation mode."""
    family = _family_of(source)
    import timm

    name = source.name.partition(":")[2]
    options: dict[str, Any] = dict(source.options)
    normalisation: dict[str, Any] = {}
    checkpoint = source.checkpoint
    if checkpoint is not None and checkpoint.is_dir():
        config, checkpoint = read_hub_folder(checkpoint)
        if config.get("architecture", name) != name:
            what = f"the folder holds a '{config['architecture']}'"
            raise CoformerError(what, f"model '{source.name}'", f"write model.name = 'timm:{config['architecture']}'")
        options = {**config.get("model_args", {}), "num_classes": config.get("num_classes"), **options}
        data = config.get("pretrained_cfg", config)
        normalisation = {key: data[key] for key in ("mean", "std") if key in data}
    _check_options(options, family)
    torch.manual_seed(source.seed)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=source.weights == "hub", pretrained_cfg_overlay=normalisation, **options
        )
    except (TypeError, AssertionError, ValueError) as error:
        raise CoformerError(
            f"timm refuses the options ({error})", f"model '{source.name}'", "check model.options"
        ) from error
    if checkpoint is not None:
        load_into(model, read_state_dict(checkpoint), f"checkpoint {checkpoint}")
    return model.eval()


def _check_options(options: dict[str, Any], family: Family) -> None:
    import difflib

    for key in options:
        if key not in family.options:
            near = difflib.get_close_matches(key, family.options, 1, 0)
            raise CoformerError(f"unknown option '{key}'", "model.options", f"did you mean '{near[0]}'?")


def verify_import(original: nn.Module, imported: Transformer, name: str) -> None:
    """Compare logits on seeded random pixels.

    Raises:
        CheckFailed: if they differ by more than `TOLERANCE`; that is a bug of the importer.
    """
    stem = imported.stem
    assert isinstance(stem, PatchStem)
    shape = (2, stem.spec.channels, *stem.spec.image_size)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        scaled = (pixels - stem.mean[:, None, None]) / stem.std[:, None, None]
        want, got = original(scaled), imported(pixels)
    error = float((want - got).abs().max() / want.abs().max().clamp(min=1))
    if not error <= TOLERANCE:
        raise CheckFailed(
            f"imported logits differ by {error:.2e}", f"model '{name}'", "report this model name as a bug"
        )
