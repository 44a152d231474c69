"""All that a run needs to go on after a kill, and its one file.

One safetensors file, JSON in its header, written to a sibling, synced and renamed: at any moment there is a whole
checkpoint or none. There is no generator state to keep: draws depend on phase and step alone (`schedule.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from coformer_compiler.booster.history import History, history_from_json
from coformer_compiler.model.aggregator import Aggregator
from coformer_compiler.model.head import Head
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-boost/1"

Tensors = dict[str, torch.Tensor]


@dataclass
class State:
    """Where a run is.

    Attributes:
        members: as far as trained.
        aggregator: from the closed-form fit on.
        weights: of the training samples, float64 `(samples,)`.
        phase: member n trains in phase n; the closed-form fit and the joint phase follow; the next is the end.
        step: optimizer steps done in this phase.
        history: so far.
        pending: training losses since the last point of the history.
        before: weights of members and aggregator before the joint phase, to go back to.
        optimizer: moments of AdamW and the gradient scale, while a phase is under way.
    """

    members: list[Transformer]
    weights: torch.Tensor
    aggregator: Aggregator | None = None
    phase: int = 0
    step: int = 0
    history: History = field(default_factory=History)
    pending: list[float] = field(default_factory=list)
    before: Tensors = field(default_factory=dict)
    optimizer: Tensors = field(default_factory=dict)

    def next_phase(self) -> None:
        """The phase is done; what belongs to it alone is dropped."""
        self.phase += 1
        self.step = 0
        self.pending = []
        self.optimizer = {}

    def models(self) -> nn.ModuleList:
        """Members and, if there is one, aggregator."""
        return nn.ModuleList([*self.members, *([] if self.aggregator is None else [self.aggregator])])


def weights_of(models: nn.Module) -> Tensors:
    """Copies of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in models.state_dict().items()}


def write_state(path: Path, state: State, digest: str) -> None:
    """Write a checkpoint; `digest` says which run it belongs to."""
    from safetensors.torch import save_file

    groups = {"models": state.models().state_dict(), "before": state.before, "optimizer": state.optimizer}
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    tensors["weights"] = state.weights
    header = {
        "format": FORMAT,
        "digest": digest,
        "phase": state.phase,
        "step": state.step,
        "history": state.history.to_json(),
        "pending": state.pending,
        "aggregator": state.aggregator is not None,
    }
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"coformer": json.dumps(header, sort_keys=True)})
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def read_state(path: Path, digest: str, members: Sequence[Transformer], head: Head) -> State | None:
    """The state in a checkpoint, its weights loaded into `members`; None if it is another run's.

    Raises:
        CoformerError: the file is not a checkpoint of the booster.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["coformer"])
            if header["format"] != FORMAT:
                raise KeyError(header["format"])
            if header["digest"] != digest:
                return None
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no iterator)
        widths = [member.spec.features for member in members]
        device = head.linear.weight.device
        state = State(
            list(members),
            tensors["weights"],
            Aggregator(widths, head).to(device) if header["aggregator"] else None,
            header["phase"],
            header["step"],
            history_from_json(header["history"]),
            header["pending"],
            group_of(tensors, "before"),
            group_of(tensors, "optimizer"),
        )
        state.models().load_state_dict(group_of(tensors, "models"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CoformerError(
            f"not a checkpoint of the booster ({error})", str(path), "remove this file to start over"
        ) from error
    return state


def group_of(tensors: Mapping[str, torch.Tensor], group: str) -> Tensors:
    """The tensors named "group/…", by the rest of their names."""
    start = f"{group}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
