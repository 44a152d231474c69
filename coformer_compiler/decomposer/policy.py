"""The decomposition policy: per device the embedding width, the layers, and the heads and neurons that it keeps.

A policy is data: JSON, versioned, diffable. Indices count the teacher's layers, heads and neurons.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coformer_compiler.model.spec import (
    AttentionSpec,
    CrossAttentionSpec,
    MlpSpec,
    ResidualSpec,
    TransformerSpec,
)
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-policy/1"


@dataclass(frozen=True)
class TeacherShape:
    """What there is to share out: layers L, embed width d, heads and neurons per layer (h and D).

    A model of several stages (Swin; encoder and decoder) has a stream of its own in each: `depths` are the layers of
    every stage, `embeds` the widths, of which `embed` is the first. One stage of everything where they are not given.
    `cross` are the heads of cross-attention by layer, zero in an encoder's; none where no layer has it.
    """

    layers: int
    embed: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    depths: tuple[int, ...] = ()
    embeds: tuple[int, ...] = ()
    cross: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """One stage, unless more are given."""
        object.__setattr__(self, "depths", self.depths or (self.layers,))
        object.__setattr__(self, "embeds", self.embeds or (self.embed,))

    @property
    def stage_layers(self) -> tuple[range, ...]:
        """The layers of each stage."""
        starts = [sum(self.depths[:stage]) for stage in range(len(self.depths))]
        return tuple(range(start, start + depth) for start, depth in zip(starts, self.depths, strict=True))


@dataclass(frozen=True)
class LayerShare:
    """What one member keeps of the teacher's layer `layer`: indices of heads and neurons, ascending.

    Of cross-attention, where the layer has it, as many heads as of the other attention.
    """

    layer: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    cross: tuple[int, ...] = ()


@dataclass(frozen=True)
class MemberPolicy:
    """C_n of the paper: embed width d_n and the kept layers, l_n of them.

    `embed` is the width of the first stage's stream; those of further stages go with it. `channels` names, for each
    stage, the teacher's stream channels for index slicing; a transplanted member has none of its own.
    """

    device: str
    embed: int
    layers: tuple[LayerShare, ...]
    channels: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Policy:
    """{C_1 … C_N} with the strategy that made it."""

    strategy: str
    teacher: TeacherShape
    members: tuple[MemberPolicy, ...]

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON text."""
        return hashlib.sha256(policy_json(self).encode()).hexdigest()


def teacher_shape(spec: TransformerSpec) -> TeacherShape:
    """The shape of an imported teacher."""
    heads = tuple(b.branch.heads for b in spec.residuals if isinstance(b.branch, AttentionSpec))
    neurons = tuple(b.branch.neurons for b in spec.residuals if isinstance(b.branch, MlpSpec))
    layers: list[set[int]] = [set() for _ in spec.embeds]
    for stage, block in zip(spec.stages, spec.blocks, strict=False):
        layers[stage] |= {block.layer} if isinstance(block, ResidualSpec) else set()
    depths = tuple(len(stage) for stage in layers)
    crossing = {b.layer: b.branch.heads for b in spec.residuals if isinstance(b.branch, CrossAttentionSpec)}
    cross = tuple(crossing.get(layer, 0) for layer in spec.layers) if crossing else ()
    return TeacherShape(len(spec.layers), spec.embeds[0], heads, neurons, depths, spec.embeds, cross)


def policy_json(policy: Policy) -> str:
    """Canonical text: one line per kept layer, so that a diff shows what changed."""
    teacher = policy.teacher
    lines = [
        "{",
        f' "format": "{FORMAT}",',
        f' "strategy": {json.dumps(policy.strategy)},',
        f' "teacher": {json.dumps(_teacher_json(teacher))},',
        ' "members": [',
    ]
    for i, member in enumerate(policy.members):
        head = {"device": member.device, "embed": member.embed}
        if member.channels is not None:
            stages = [list(stage) for stage in member.channels]
            head["channels"] = stages if len(stages) > 1 else stages[0]
        lines.append("  " + json.dumps(head)[:-1] + ', "layers": [')
        rows = [
            {"layer": share.layer, "heads": list(share.heads)}
            | ({"cross": list(share.cross)} if share.cross else {})
            | {"neurons": list(share.neurons)}
            for share in member.layers
        ]
        lines += [f"   {json.dumps(row)}{',' if row is not rows[-1] else ''}" for row in rows]
        lines.append("  ]}" + ("," if i + 1 < len(policy.members) else ""))
    return "\n".join([*lines, " ]", "}", ""])


def _teacher_json(shape: TeacherShape) -> dict[str, Any]:
    data = asdict(shape)
    for key in ("depths", "embeds"):
        if len(data[key]) == 1:
            del data[key]
    if not shape.cross:
        del data["cross"]
    return data


def policy_from_json(text: str, where: str) -> Policy:
    """The inverse of `policy_json`; does not check the constraints (see `constraints.check_policy`).

    Raises:
        CoformerError: if the text is not a policy; `where` names its origin.
    """
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"format is '{data['format']}', wanted '{FORMAT}'")
        _refuse_unknown(data, {"format", "strategy", "teacher", "members"})
        shape = data["teacher"]
        _refuse_unknown(shape, {"layers", "embed", "heads", "neurons", "depths", "embeds", "cross"})
        teacher = TeacherShape(
            _integer(shape, "layers"),
            _integer(shape, "embed"),
            _indices(shape["heads"]),
            _indices(shape["neurons"]),
            *(_indices(shape.get(key, ())) for key in ("depths", "embeds", "cross")),
        )
        return Policy(str(data["strategy"]), teacher, tuple(_member(member) for member in data["members"]))
    except (KeyError, TypeError, ValueError) as error:
        detail = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise CoformerError(
            f"not a policy: {detail}", where, "compare it with a policy.json that a build wrote"
        ) from error


def read_policy(path: Path) -> Policy:
    """`policy_from_json` of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CoformerError("cannot be read", f"policy {path}", "check policy.file") from error
    return policy_from_json(text, str(path))


def _member(data: Mapping[str, Any]) -> MemberPolicy:
    _refuse_unknown(data, {"device", "embed", "channels", "layers"})
    layers = []
    for row in data["layers"]:
        _refuse_unknown(row, {"layer", "heads", "neurons", "cross"})
        units = (_indices(row["heads"]), _indices(row["neurons"]), _indices(row.get("cross", ())))
        layers.append(LayerShare(_integer(row, "layer"), *units))
    channels = None
    if "channels" in data:
        # One list where the model has one stage, else one per stage.
        named = data["channels"]
        nested = bool(named) and all(isinstance(stage, list) for stage in named)
        channels = tuple(_indices(stage) for stage in (named if nested else [named]))
    return MemberPolicy(str(data["device"]), _integer(data, "embed"), tuple(layers), channels)


def _integer(data: Mapping[str, Any], key: str) -> int:
    number = data[key]
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"'{key}' must be an integer, not {number!r:.60}")
    return number


def _indices(numbers: Sequence[int]) -> tuple[int, ...]:
    if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
        raise ValueError(f"indices must be integers, not {numbers!r:.60}")
    return tuple(numbers)


def _refuse_unknown(data: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'")
