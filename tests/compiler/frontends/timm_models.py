"""timm models with weights of which none is trivially zero, and timm's own answer to pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from coformer_compiler.torchvision_operators import ensure_torchvision_operators

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}


@torch.no_grad()
def timm_model(name: str, **options: object) -> nn.Module:
    """Timm's model; what its initialisation leaves at one or zero is made random."""
    ensure_torchvision_operators()
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, **options).eval()
    random = torch.Generator().manual_seed(1)
    for key, parameter in model.named_parameters():
        if key in ("cls_token", "dist_token", "reg_token", "pos_embed"):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random))
        elif parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=random)
        elif parameter.ndim == 1:
            centre = 1 if "norm" in key and key.endswith("weight") else 0.4 if key.endswith("gamma") else 0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=random))
    return model


def save_weights(model: nn.Module, path: Path) -> Path:
    """A safetensors file under timm's tensor names."""
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return path


@torch.inference_mode()
def timm_logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Logits of uint8 pixels, scaled as timm's data configuration of the model says."""
    config = model.pretrained_cfg
    mean, std = (
        torch.tensor(config[key]).mean() if pixels.shape[1] == 1 else torch.tensor(config[key])[:, None, None]
        for key in ("mean", "std")
    )
    logits: torch.Tensor = model((pixels.double() / 255 - mean).div(std).float())
    return logits
