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

from coformer_compiler.model.spec import AttentionSpec, MlpSpec, TransformerSpec
from coformer_runtime.errors import CoformerError

FORMAT = "coformer-policy/1"


@dataclass(frozen=True)
class TeacherShape:
    """What there is to share out: layers L, embed width d, heads and neurons per layer (h and D)."""

    layers: int
    embed: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]


@dataclass(frozen=True)
class LayerShare:
    """What one member keeps of the teacher's layer `layer`: indices of heads and neurons, ascending."""

    layer: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]


@dataclass(frozen=True)
class MemberPolicy:
    """C_n of the paper: embed width d_n and the kept layers, l_n of them.

    `channels` names the teacher's stream channels for index slicing; a transplanted member has none of its own.
    """

    device: str
    embed: int
    layers: tuple[LayerShare, ...]
    channels: tuple[int, ...] | None = None


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
    heads = tuple(b.branch.heads for b in spec.blocks if isinstance(b.branch, AttentionSpec))
    neurons = tuple(b.branch.neurons for b in spec.blocks if isinstance(b.branch, MlpSpec))
    return TeacherShape(len(spec.layers), spec.embed, heads, neurons)


def policy_json(policy: Policy) -> str:
    """Canonical text: one line per kept layer, so that a diff shows what changed."""
    teacher = policy.teacher
    lines = [
        "{",
        f' "format": "{FORMAT}",',
        f' "strategy": {json.dumps(policy.strategy)},',
        f' "teacher": {json.dumps(asdict(teacher))},',
        ' "members": [',
    ]
    for i, member in enumerate(policy.members):
        head = {"device": member.device, "embed": member.embed}
        if member.channels is not None:
            head["channels"] = list(member.channels)
        lines.append("  " + json.dumps(head)[:-1] + ', "layers": [')
        rows = [
            {"layer": share.layer, "heads": list(share.heads), "neurons": list(share.neurons)}
            for share in member.layers
        ]
        lines += [f"   {json.dumps(row)}{',' if row is not rows[-1] else ''}" for row in rows]
        lines.append("  ]}" + ("," if i + 1 < len(policy.members) else ""))
    return "\n".join([*lines, " ]", "}", ""])


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
        _refuse_unknown(shape, {"layers", "embed", "heads", "neurons"})
        teacher = TeacherShape(
            _integer(shape, "layers"), _integer(shape, "embed"), _indices(shape["heads"]), _indices(shape["neurons"])
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
        _refuse_unknown(row, {"layer", "heads", "neurons"})
        layers.append(LayerShare(_integer(row, "layer"), _indices(row["heads"]), _indices(row["neurons"])))
    channels = _indices(data["channels"]) if "channels" in data else None
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
