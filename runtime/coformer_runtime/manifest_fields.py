"""Strict reading of JSON objects: each key is taken once with its type; what is left over is an error."""

import difflib
import json
import math
from typing import Any, Dict, Iterable, List, NoReturn, Optional, Pattern, Set, Tuple

from .dtypes import dtype_named
from .errors import CoformerError


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text without duplicate keys, NaN or infinities, or raise a CoformerError."""

    def pairs(items: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise ValueError("a key appears twice")
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError("{} is not a number of JSON".format(name))

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise CoformerError("not readable as JSON ({})".format(error), where, "copy the file again") from error


def unsafe_path(path: str) -> bool:
    """Whether `path` could leave the bundle or is not in the one form that a manifest uses."""
    parts = path.split("/")
    return "\\" in path or "\0" in path or ":" in path or any(part in ("", ".", "..") for part in parts)


class Fields:
    """The fields of one JSON object that are still to be taken."""

    def __init__(self, value: Any, where: str, key: str, mend: str) -> None:
        self._where, self._key, self._mend = where, key, mend
        if not isinstance(value, dict):
            self._fail(key or "the document", "an object", value)
        self._left: Dict[str, Any] = dict(value)
        self._known: Set[str] = set()

    def _name(self, key: str) -> str:
        return "{}.{}".format(self._key, key) if self._key else key

    def _fail(self, name: str, wanted: str, value: Any) -> NoReturn:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise CoformerError("'{}' must be {}, not {}".format(name, wanted, shown), self._where, self._mend)

    def has(self, key: str) -> bool:
        """Return whether an optional key is there."""
        self._known.add(key)
        return key in self._left

    def keys(self) -> List[str]:
        """Return the keys that are left."""
        return list(self._left)

    def take(self, key: str) -> Any:
        """Return the value of `key` and strike it off; raise a CoformerError where it is missing."""
        self._known.add(key)
        if key not in self._left:
            near = difflib.get_close_matches(key, sorted(self._left), 1)
            hint = " (found '{}')".format(near[0]) if near else ""
            raise CoformerError("'{}' is missing{}".format(self._name(key), hint), self._where, self._mend)
        return self._left.pop(key)

    def finish(self) -> None:
        """Raise a CoformerError if a key was never taken, with the nearest known one."""
        if not self._left:
            return
        key = sorted(self._left)[0]
        near = difflib.get_close_matches(key, sorted(self._known), 1)
        hint = " (did you mean '{}'?)".format(near[0]) if near else ""
        raise CoformerError("unknown key '{}'{}".format(self._name(key), hint), self._where, self._mend)

    def section(self, key: str) -> "Fields":
        """Take an object."""
        return Fields(self.take(key), self._where, self._name(key), self._mend)

    def sections(self, key: str) -> List["Fields"]:
        """Take a list of objects."""
        return [
            Fields(item, self._where, "{}[{}]".format(self._name(key), index), self._mend)
            for index, item in enumerate(self._list(key))
        ]

    def entry(self, path: str) -> "Fields":
        """Take the object under a key that is itself a safe relative path."""
        value = self.take(path)
        if unsafe_path(path):
            self._refuse_path(self._key, path)
        return Fields(value, self._where, "{}['{}']".format(self._key, path), self._mend)

    def _refuse_path(self, name: str, path: str) -> NoReturn:
        raise CoformerError(
            "'{}' names the path '{}', which is not a plain relative path inside the bundle".format(name, path),
            self._where,
            self._mend,
        )

    def _list(self, key: str) -> List[Any]:
        value = self.take(key)
        if not isinstance(value, list):
            self._fail(self._name(key), "a list", value)
        return value

    def text(self, key: str) -> str:
        """Take a non-empty text."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            self._fail(self._name(key), "a non-empty text", value)
        return value

    def texts(self, key: str) -> List[str]:
        """Take a list of non-empty texts."""
        values = self._list(key)
        if not all(isinstance(value, str) and value for value in values):
            self._fail(self._name(key), "a list of non-empty texts", values)
        return values

    def matching(self, key: str, pattern: Pattern[str], wanted: str) -> str:
        """Take a text that matches the whole pattern; `wanted` describes it in errors."""
        value = self.take(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self._fail(self._name(key), wanted, value)
        return value

    def path(self, key: str) -> str:
        """Take a safe relative path."""
        value = self.text(key)
        if unsafe_path(value):
            self._refuse_path(self._name(key), value)
        return value

    def dtype(self, key: str) -> str:
        """Take numpy's name of an element type."""
        return dtype_named(self.text(key), "{}, key '{}'".format(self._where, self._name(key))).name

    def integer(self, key: str, least: int) -> int:
        """Take an integer of at least `least`."""
        value = self.take(key)
        if not _is_integer(value) or value < least:
            self._fail(self._name(key), "an integer of at least {}".format(least), value)
        return int(value)

    def optional_integer(self, key: str, least: int) -> Optional[int]:
        """Take an integer of at least `least`, or null."""
        if key in self._left and self._left[key] is None:
            self.take(key)
            return None
        return self.integer(key, least)

    def boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            self._fail(self._name(key), "true or false", value)
        return value

    def integers(self, key: str) -> List[int]:
        """Take a list of integers of at least 0."""
        values = self._list(key)
        if not _all_integers(values, 0):
            self._fail(self._name(key), "a list of integers of at least 0", values)
        return values

    def shape(self, key: str, max_rank: int) -> Tuple[int, ...]:
        """Take a list of 1 to `max_rank` axis sizes of at least 1."""
        values = self._list(key)
        if not 1 <= len(values) <= max_rank or not _all_integers(values, 1):
            self._fail(self._name(key), "1 to {} axis sizes of at least 1".format(max_rank), values)
        return tuple(values)

    def shapes(self, key: str, max_rank: int) -> Tuple[Tuple[int, ...], ...]:
        """Take a list of shapes."""
        shapes = self._list(key)
        if not all(isinstance(each, list) and 1 <= len(each) <= max_rank and _all_integers(each, 1) for each in shapes):
            self._fail(self._name(key), "a list of lists of 1 to {} axis sizes".format(max_rank), shapes)
        return tuple(tuple(each) for each in shapes)

    def number(self, key: str, least: float, most: float) -> float:
        """Take a finite number from `least` to `most`."""
        value = self.take(key)
        if not _is_within(value, least, most):
            self._fail(self._name(key), "a number from {:g} to {:g}".format(least, most), value)
        return float(value)

    def numbers(self, key: str, least: float, most: float) -> List[float]:
        """Take a list of such numbers."""
        values = self._list(key)
        if not all(_is_within(value, least, most) for value in values):
            self._fail(self._name(key), "a list of numbers from {:g} to {:g}".format(least, most), values)
        return [float(value) for value in values]


def _is_within(value: Any, least: float, most: float) -> bool:
    """Whether it is a finite number of that range."""
    fine = (_is_integer(value) or isinstance(value, float)) and math.isfinite(value)
    return bool(fine and least <= value <= most)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _all_integers(values: Iterable[Any], least: int) -> bool:
    return all(_is_integer(value) and value >= least for value in values)
