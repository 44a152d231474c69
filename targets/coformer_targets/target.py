"""A target: what one kind of device is, read from a TOML file.

One file per device in `devices/`; a user's own comes through `load_target_file`. Reading is strict: an unknown
key, a missing key or a value of the wrong kind is an error that names the file, the key and the cure. Each fact
says where it comes from in the table `[sources]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion
from coformer_targets.toml import read_toml

ENGINES = ("onnxruntime", "tensorrt")
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Target:
    """What the compiler knows of one kind of device.

    Attributes:
        name: the name a user gives, also the file's stem.
        title: the device in words.
        engine: "onnxruntime" or "tensorrt".
        engine_version: the version that the device runs; for TensorRT it decides which operators are legal.
        opset: the highest ONNX opset that the engine is given.
        ir_version: the highest ONNX IR version that the engine is given.
        python: the Python of the device's system, "3.6".
        arch: "x86_64", "aarch64" or "any".
        sm: CUDA compute capability times ten (53 is 5.3), None where there is no such GPU.
        memory_mb: memory of the device, system and engine library included.
        runtime_mb: what the interpreter and the engine library take before any model.
        gflops: sustained FP32 throughput, 10^9 floating point operations a second (a multiply-add is two).
        precisions: what the engine can compute in, the default first.
        alignment: multiple that widths and head dims should have.
        uint8_input: whether the engine takes a uint8 graph input.
        power_w: power under load, of the whole device.
        sources: field → where the fact comes from.
    """

    name: str
    title: str
    engine: str
    engine_version: str
    opset: int
    ir_version: int
    python: str
    arch: str
    sm: int | None
    memory_mb: int
    runtime_mb: int
    gflops: float
    precisions: tuple[str, ...]
    alignment: int
    uint8_input: bool
    power_w: float
    sources: Mapping[str, str] = field(hash=False)


def target_names() -> tuple[str, ...]:
    """The names of the targets that come with the toolchain, sorted."""
    return tuple(sorted(path.stem for path in _devices().glob("*.toml")))


def load_target(name: str) -> Target:
    """The target of that name.

    Raises:
        CoformerError: there is none; the nearest known name is suggested.
    """
    if name not in target_names():
        raise CoformerError("no such target", f"target '{name}'", suggestion(name, target_names(), noun="target"))
    return load_target_file(_devices() / f"{name}.toml")


def load_target_file(path: str | Path) -> Target:
    """The target that a TOML file describes; its name is the key `name`, or else the file's stem.

    Raises:
        CoformerError: the file is missing or no TOML, has an unknown key, lacks one, or has a refused value.
    """
    path = Path(path)
    where = f"target file {path.name}"
    content = read_toml(path, where)
    content.setdefault("name", path.stem)
    for key in content:
        if key not in _RULES:
            raise CoformerError(f"unknown key '{key}'", where, suggestion(key, _RULES, noun="key"))
    for key, (accepts, expected) in _RULES.items():
        if key not in content and key in _OPTIONAL:
            continue
        if key not in content:
            raise CoformerError(f"the key '{key}' is missing", where, f"set it to {expected}")
        if not accepts(content[key]):
            raise CoformerError(f"{key} = {content[key]!r} is refused", where, f"set it to {expected}")
    return _target_from_content(content, where)


def tensorrt_older_than(target: Target, *version: int) -> bool:
    """Whether the target's engine is a TensorRT older than `version`; never true of another engine."""
    if target.engine != "tensorrt":
        return False
    return tuple(int(part) for part in target.engine_version.split(".")) < version


def _target_from_content(content: dict[str, Any], where: str) -> Target:
    sources = content.get("sources", {})
    names = {entry.name for entry in fields(Target)} - {"sources"}
    for key in sources:
        if key not in names:
            raise CoformerError(
                f"[sources] names '{key}', which is no field", where, suggestion(key, names, noun="field")
            )
    values = {**content, "sources": sources, "sm": content.get("sm")}
    values["gflops"] = float(content["gflops"])
    values["power_w"] = float(content["power_w"])
    values["precisions"] = tuple(content["precisions"])
    return Target(**values)


def _devices() -> Path:
    return Path(__file__).parent / "devices"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_one_of(*known: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in known


def _is_version(value: object) -> bool:
    return isinstance(value, str) and all(part.isdigit() for part in value.split("."))


def _is_precisions(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_one_of(*PRECISIONS)(each) for each in value)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(text) for text in value.values())


_OPTIONAL = ("sm", "sources")
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "a non-empty text"),
    "title": (_is_text, "a non-empty text"),
    "engine": (_is_one_of(*ENGINES), " or ".join(f"'{engine}'" for engine in ENGINES)),
    "engine_version": (_is_version, "a version such as '8.2.1'"),
    "opset": (lambda v: _is_count(v) and 9 <= int(str(v)) <= 24, "a whole number from 9 to 24"),
    "ir_version": (lambda v: _is_count(v) and 4 <= int(str(v)) <= 12, "a whole number from 4 to 12"),
    "python": (_is_version, "a version such as '3.6'"),
    "arch": (_is_one_of("x86_64", "aarch64", "any"), "'x86_64', 'aarch64' or 'any'"),
    "sm": (_is_count, "the compute capability times ten (53 for 5.3), or leave it out"),
    "memory_mb": (_is_count, "a whole number of megabytes above zero"),
    "runtime_mb": (_is_count, "a whole number of megabytes above zero"),
    "gflops": (_is_amount, "a number above zero"),
    "precisions": (_is_precisions, "a list of 'float32', 'float16', 'int8', the default first"),
    "alignment": (_is_count, "a whole number above zero"),
    "uint8_input": (lambda value: isinstance(value, bool), "true or false"),
    "power_w": (_is_amount, "a number above zero"),
    "sources": (_is_texts, "a table of texts, field = where the fact comes from"),
}
