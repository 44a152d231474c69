"""Operator legality: which ONNX operators an engine version takes, of which types, with what restrictions.

One TOML file per engine version in `operators/`, named `<engine>-<version>.toml`; the first lines of each say what
its keys mean and where the facts come from. `table_versions.py` says which table a version goes by. ONNX Runtime has
none: that a session loads is the proof there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coformer_targets.table_versions import FOLDER, table_name
from coformer_targets.target import Target
from coformer_targets.toml import read_toml


@dataclass(frozen=True)
class OperatorRule:
    """What an engine takes of one operator.

    Attributes:
        types: element types of the inputs that `data` names, as ONNX writes them ("float32").
        data: the inputs that `types` speaks of, None for all.
        initializer: the inputs that must be constants where they are there.
        ranks: the ranks that the first input may have, () for any.
        attributes: attribute → the values that it may have.
        outputs: how many outputs may be in use, None for all.
        checks: further rules that the node is held to, by their names in coformer_passes.operator_rules.
        rule: the restriction in words.
        cure: what to do about a node that breaks the rule.
    """

    types: tuple[str, ...]
    data: tuple[int, ...] | None = None
    initializer: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] | None = None
    outputs: int | None = None
    checks: tuple[str, ...] = ()
    rule: str = ""
    cure: str = ""


@dataclass(frozen=True)
class OperatorTable:
    """What one engine version takes.

    Attributes:
        engine: "tensorrt" or "tensorrt-rtx".
        version: the version that it was read at, "8.2.1"; it stands for all of 8.2.
        opset: the opset that its parser was written for.
        source: where the table comes from.
        exact: whether operators and importers were read at this very version.
        notes: how they were derived where they were not.
        types: every element type that the engine has.
        aliases: element type → what the parser makes of it.
        operators: operator → its rule; one that is not here is refused.
        cures: refused operator → what to do instead.
    """

    engine: str
    version: str
    opset: int
    source: str
    exact: bool
    notes: tuple[str, ...]
    types: tuple[str, ...]
    aliases: Mapping[str, str]
    operators: Mapping[str, OperatorRule]
    cures: Mapping[str, str]

    @property
    def title(self) -> str:
        """The engine and its version, in words."""
        return f"{'TensorRT-RTX' if self.engine == 'tensorrt-rtx' else 'TensorRT'} {self.version}"


def operator_table(target: Target) -> OperatorTable | None:
    """The table of the target's engine version, None for an engine that needs none.

    Raises:
        CoformerError: there is no table of that major.minor of the engine.
    """
    return operator_table_of(target.engine, target.engine_version, f"target '{target.name}'")


def operator_table_of(engine: str, version: str, where: str) -> OperatorTable | None:
    """The table of an engine's version; `where` names it in errors. See `operator_table`."""
    name = table_name(engine, version, where)
    return None if name is None else _table_from_content(read_toml(FOLDER / f"{name}.toml", f"operator table {name}"))


def _table_from_content(content: dict[str, Any]) -> OperatorTable:
    return OperatorTable(
        engine=content["engine"],
        version=content["version"],
        opset=content["opset"],
        source=content["source"],
        exact=content["exact"],
        notes=tuple(content.get("notes", ())),
        types=tuple(content["types"]),
        aliases=content["aliases"],
        operators={name: _rule_from_content(entry) for name, entry in content["operators"].items()},
        cures={name: entry["cure"] for name, entry in content["missing"].items()},
    )


def _rule_from_content(entry: dict[str, Any]) -> OperatorRule:
    return OperatorRule(
        types=tuple(entry["types"]),
        data=tuple(entry["data"]) if "data" in entry else None,
        initializer=tuple(entry.get("initializer", ())),
        ranks=tuple(entry.get("ranks", ())),
        attributes={name: tuple(values) for name, values in entry.get("attributes", {}).items()},
        outputs=entry.get("outputs"),
        checks=tuple(entry.get("checks", ())),
        rule=entry.get("rule", ""),
        cure=entry.get("cure", ""),
    )
