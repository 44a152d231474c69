"""Frozen dataclasses from JSON values and back, strictly: every key known, every value of its declared type.

Understands what a report is made of: dataclasses, `tuple[T, ...]`, `Mapping[str, T]`, `T | None`, Literal,
bool, int, float, str and Any.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, TypeVar, Union

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion

T = TypeVar("T")

_PLAIN: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def dataclass_from_json(kind: type[T], value: Any, where: str, mend: str, key: str = "") -> T:
    """An instance of the dataclass `kind`; fields with a default may be missing.

    Args:
        kind: the dataclass.
        value: what `json.loads` made.
        where: names the origin in errors.
        mend: the cure in errors.
        key: path of `value` in its document.

    Raises:
        CoformerError: a key is missing or unknown, or a value is of another type.
    """
    return typing.cast(T, _Reader(where, mend).dataclass(kind, value, key))


def json_from_value(value: Any, key: str = "") -> Any:
    """What `json.dumps` takes: dataclasses become objects, tuples lists.

    Raises:
        ValueError: a number is not finite, which JSON cannot say; the text names its key.
    """
    if dataclasses.is_dataclass(value):
        return {f.name: json_from_value(getattr(value, f.name), f"{key}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): json_from_value(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_from_value(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key.lstrip('.')} is {value}: JSON has no such number")
    return value


class _Reader:
    """Holds what every error says."""

    def __init__(self, where: str, mend: str) -> None:
        self.where, self.mend = where, mend

    def dataclass(self, kind: Any, value: Any, key: str) -> Any:
        if not isinstance(value, dict):
            self.refuse(key, "an object", value)
        hints = typing.get_type_hints(kind)
        known = {f.name: f for f in dataclasses.fields(kind)}
        for name in value:
            if name not in known:
                raise CoformerError(
                    f"unknown key '{_join(key, name)}'", self.where, suggestion(name, known, noun="key")
                )
        read = {}
        for name, field in known.items():
            if name in value:
                read[name] = self.any(hints[name], value[name], _join(key, name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise CoformerError(f"'{_join(key, name)}' is missing", self.where, self.mend)
        return kind(**read)

    def any(self, kind: Any, value: Any, key: str) -> Any:
        """`value` as the type `kind`."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return value
        if origin in (Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return None if value is None else self.any(inner, value, key)
        if origin is Literal:
            if value not in arguments:
                self.refuse(key, "one of " + ", ".join(map(str, arguments)), value)
            return value
        if origin is tuple:
            if not isinstance(value, list):
                self.refuse(key, "a list", value)
            return tuple(self.any(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
        if origin is not None:  # a Mapping
            if not isinstance(value, dict):
                self.refuse(key, "an object", value)
            return {name: self.any(arguments[1], item, _join(key, name)) for name, item in value.items()}
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, value, key)
        return self.plain(kind, value, key)

    def plain(self, kind: Any, value: Any, key: str) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            self.refuse(key, _PLAIN[kind], value)
        return value

    def refuse(self, key: str, wanted: str, value: Any) -> NoReturn:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise CoformerError(f"'{key or 'the document'}' must be {wanted}, not {shown}", self.where, self.mend)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
