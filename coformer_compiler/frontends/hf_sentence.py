"""The head of an embedding model: the linear and the normalising that sentence-transformers puts behind an encoder."""

from __future__ import annotations

import torch

from coformer_compiler.frontends.hf_checkpoint import Checkpoint
from coformer_compiler.frontends.tensor_files import TensorFolder
from coformer_compiler.model.head import Head
from coformer_compiler.model.linear import linear_from
from coformer_compiler.model.spec import HeadSpec
from coformer_runtime.errors import CoformerError

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")


def embedding_head(checkpoint: Checkpoint) -> Head:
    """The pooled stream itself, behind the folder's linear where it has one, normalised where its modules say so.

    Raises:
        CoformerError: modules of other kinds, or several linears.
    """
    modules = [
        (str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in _listed(checkpoint)
    ]
    for kind, _ in modules:
        if kind not in MODULES:
            raise CoformerError(
                f"its module '{kind}' has no canonical form",
                f"{checkpoint.where}, modules.json",
                f"known are {', '.join(MODULES)}",
            )
    known = any(kind == "Normalize" for kind, _ in modules)
    normalise = checkpoint.option("normalise", known)
    dense = [path for kind, path in modules if kind == "Dense"]
    if len(dense) > 1:
        raise CoformerError(
            f"it has {len(dense)} linears behind the pooling",
            f"{checkpoint.where}, modules.json",
            "multiply them out to one",
        )
    if dense:
        return _dense_head(checkpoint, dense[0], normalise)
    width = checkpoint.config.hidden_size
    return Head.assemble(HeadSpec(width, normalise=normalise), linear_from(torch.eye(width), torch.zeros(width)))


def _listed(checkpoint: Checkpoint) -> list[dict[str, object]]:
    return list(checkpoint.sentence_transformers("modules.json").get("modules", []))


def _dense_head(checkpoint: Checkpoint, path: str, normalise: bool) -> Head:
    where = f"{checkpoint.where}, {path}"
    config = checkpoint.sentence_transformers(f"{path}/config.json")
    activation = str(config.get("activation_function", "")).rpartition(".")[2].lower()
    if activation not in ("identity", "tanh"):
        raise CoformerError(f"its activation is '{activation}'", where, "use a model with Identity or Tanh there")
    tensors = TensorFolder(checkpoint.folder / path)
    width = checkpoint.config.hidden_size
    weight = tensors["linear.weight"].float()
    if weight.shape[1] != width:
        raise CoformerError(
            f"its linear reads {weight.shape[1]} features, the encoder has {width}", where, "copy the whole folder"
        )
    out = len(weight)
    bias = tensors["linear.bias"].float() if "linear.bias" in tensors else torch.zeros(out)
    linear = linear_from(weight, bias)
    if activation == "identity":
        return Head.assemble(HeadSpec(out, normalise=normalise), linear)
    plain = linear_from(torch.eye(out), torch.zeros(out))
    return Head.assemble(HeadSpec(out, out, "tanh", normalise), plain, linear)
