"""A system on disk: the members and their aggregator, as the transplant and the booster leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.checkpoint import load_transformer, save_transformer
from coformer_compiler.model.head import Head
from coformer_compiler.model.spec import HeadSpec
from coformer_compiler.model.transformer import Transformer

AGGREGATOR = "aggregator.safetensors"


@dataclass(frozen=True)
class System:
    """Members in the order of the devices, and the aggregator of all their subsets."""

    members: tuple[Transformer, ...]
    aggregator: Aggregator

    @torch.no_grad()
    def features(self, inputs: torch.Tensor) -> dict[int, torch.Tensor]:
        """Every member's features `{n: (batch, d_n)}`."""
        return {n: member.features(inputs) for n, member in enumerate(self.members)}

    @torch.no_grad()
    def sent(self, inputs: torch.Tensor) -> dict[int, torch.Tensor]:
        """What every member sends `{n: (batch, d_n)}`."""
        return {n: member.sent(inputs) for n, member in enumerate(self.members)}


def save_system(folder: Path, members: Sequence[Transformer], aggregator: Aggregator) -> None:
    """Write `member-N.safetensors` and `aggregator.safetensors`."""
    from safetensors.torch import save_file

    for n, member in enumerate(members):
        save_transformer(folder / f"member-{n}.safetensors", member)
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(aggregator.state_dict().items())}
    header = {
        "widths": list(aggregator.widths),
        "subsets": [list(subset) for subset in aggregator.subsets],
        "head": asdict(aggregator.head.spec),
    }
    save_file(tensors, folder / AGGREGATOR, {"coformer": json.dumps(header, sort_keys=True)})


def load_system(folder: Path) -> System:
    """What `save_system` wrote, in evaluation mode."""
    from safetensors import safe_open

    paths = sorted(folder.glob("member-*.safetensors"), key=lambda path: int(path.stem.partition("-")[2]))
    with safe_open(folder / AGGREGATOR, framework="pt") as file:
        header = json.loads((file.metadata() or {})["coformer"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    spec = HeadSpec(**header["head"])
    head = Head(tensors["head.linear.weight" if spec.hidden is None else "head.pooler.weight"].shape[1], spec)
    aggregator = Aggregator(header["widths"], head, [tuple(subset) for subset in header["subsets"]])
    aggregator.load_state_dict(tensors)
    return System(tuple(load_transformer(path) for path in paths), aggregator.eval())
