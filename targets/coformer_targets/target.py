"""A target: what one kind of device is, read from a TOML file.

One file per device in `devices/`; a user's own comes through `load_target_file`. Reading is strict: an unknown
key, a missing key or a value of the wrong kind is an error that names the file, the key and the cure. Each fact
says where it comes from in the table `[sources]`; a source that begins with "unsure:" has to be checked before one
relies on it.

What a Jetson gets with its system (TensorRT, CUDA, Python) is a file of its own in `jetpacks/`. A device's file lists
the `jetpacks` that run on it and the one that its bare name means, `jetpack`; `NAME@jpX.Y` is the device under
another. What the device's file says goes before what the JetPack's says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion
from coformer_targets.table_versions import table_name
from coformer_targets.toml import read_toml

ENGINES = ("onnxruntime", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("float32", "float16", "int8")

Rule = tuple[Callable[[object], bool], str]
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """What the compiler knows of one kind of device.

    Attributes:
        name: the name a user gives, also the file's stem.
        title: the device in words.
        engine: "onnxruntime", "tensorrt" or "tensorrt-rtx".
        engine_version: the version that the device runs; for TensorRT it decides which operators are legal, by the
            table of its major.minor.
        cuda: version of CUDA, None where there is none.
        jetpack: version of NVIDIA's JetPack, as `NAME@jpX.Y` gives it; None for other systems.
        jetpacks: all that the device runs.
        opset: the highest ONNX opset that the engine is given.
        ir_version: the highest ONNX IR version that the engine is given.
        python: the Python of the device's system, "3.6".
        arch: "x86_64", "aarch64" or "any".
        sm: CUDA compute capability times ten (53 is 5.3), None where there is no such GPU.
        memory_mb: memory of the device, system and engine library included.
        runtime_mb: what the interpreter and the engine library take before any model.
        gflops: sustained FP32 throughput, 10^9 floating point operations a second (a multiply-add is two).
        precisions: what the engine can compute in; the first is what it will (see `with_precision`).
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
    cuda: str | None = None
    jetpack: str | None = None
    jetpacks: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """What the engine will compute in."""
        return self.precisions[0]


def target_names() -> tuple[str, ...]:
    """The names of the targets that come with the toolchain, sorted; each Jetson under the JetPack that it means."""
    return tuple(sorted(path.stem for path in (_HERE / "devices").glob("*.toml")))


def target_variants() -> tuple[str, ...]:
    """All names that `load_target` knows: the bare ones, and each Jetson under each of its JetPacks, sorted."""
    variants = [f"{name}@jp{jetpack}" for name in target_names() for jetpack in load_target(name).jetpacks]
    return tuple(sorted((*target_names(), *variants)))


def load_target(name: str) -> Target:
    """The target of that name: `NAME`, or `NAME@jpX.Y` for a Jetson under a certain JetPack.

    Raises:
        CoformerError: there is none; the nearest known name, or the JetPacks that there are, are suggested.
    """
    bare, at, variant = name.partition("@")
    if bare not in target_names():
        raise CoformerError("no such target", f"target '{name}'", suggestion(bare, target_names(), noun="target"))
    return _load(_HERE / "devices" / f"{bare}.toml", f"target file {bare}.toml", name, variant if at else None)


def load_target_file(path: str | Path) -> Target:
    """The target that a TOML file describes; its name is the key `name`, or else the file's stem.

    Raises:
        CoformerError: the file is missing or no TOML, has an unknown key, lacks one, or has a refused value, or
            names a version of TensorRT that there is no operator table of.
    """
    path = Path(path)
    return _load(path, f"target file {path.name}", path.stem, None)


def with_precision(target: Target, precision: str) -> Target:
    """The target computing in `precision`, "float16" say.

    Raises:
        CoformerError: the target does not offer it.
    """
    if precision not in target.precisions:
        raise CoformerError(
            f"it does not compute in {precision}",
            f"target '{target.name}'",
            f"choose one of {', '.join(sorted(target.precisions))}",
        )
    if precision == "int8" and target.engine != "onnxruntime":
        raise CoformerError(
            f"no pass writes int8 for {target.engine} yet",
            f"target '{target.name}'",
            "choose float16, or a target of ONNX Runtime",
        )
    others = (each for each in target.precisions if each != precision)
    return replace(target, precisions=(precision, *others))


def tensorrt_older_than(target: Target, *version: int) -> bool:
    """Whether the target's engine is a TensorRT older than `version`; never true of another engine."""
    if target.engine != "tensorrt":
        return False
    return tuple(int(part) for part in target.engine_version.split(".")) < version


def strongly_typed(target: Target) -> bool:
    """Whether the engine computes in exactly the types that the graph has: TensorRT-RTX, and TensorRT from 11 on."""
    return target.engine == "tensorrt-rtx" or (target.engine == "tensorrt" and not tensorrt_older_than(target, 11))


def _load(path: Path, where: str, name: str, variant: str | None) -> Target:
    content = read_toml(path, where)
    content.setdefault("name", name)
    _check(content, where, _KEYS, required=())
    content = _under_jetpack(content, where, variant)
    _check(content, where, _KEYS, required=[key for key in _KEYS if key not in _OPTIONAL])
    table_name(content["engine"], content["engine_version"], where)  # else it would be refused after the training
    return _target_from_content(content, where)


def _check(content: dict[str, Any], where: str, keys: Mapping[str, Rule], *, required: Sequence[str]) -> None:
    """Unknown keys first, then what is missing or refused, in the order of the rules."""
    for key in content:
        if key not in keys:
            raise CoformerError(f"unknown key '{key}'", where, suggestion(key, keys, noun="key"))
    for key, (accepts, expected) in keys.items():
        if key not in content:
            if key in required:
                raise CoformerError(f"the key '{key}' is missing", where, f"set it to {expected}")
        elif not accepts(content[key]):
            raise CoformerError(f"{key} = {content[key]!r} is refused", where, f"set it to {expected}")


def _under_jetpack(content: dict[str, Any], where: str, variant: str | None) -> dict[str, Any]:
    """The content with what its JetPack brings, that of `variant` ("jp6.2") or else its own."""
    name, own = content["name"], content.get("jetpacks", [])
    if variant is not None and variant not in [f"jp{each}" for each in own]:
        bare = name.partition("@")[0]
        theirs = ", ".join(f"{bare}@jp{each}" for each in own)
        raise CoformerError(
            f"there is no '{variant}' of {bare}",
            f"target '{name}'",
            f"these are there: {theirs}" if theirs else f"it has no JetPack: write {bare}",
        )
    jetpack = content.get("jetpack") if variant is None else variant[2:]
    if jetpack is None:
        return content
    known = sorted(path.stem for path in (_HERE / "jetpacks").glob("*.toml"))
    if jetpack not in known:
        raise CoformerError(f"there is no JetPack '{jetpack}'", where, f"known JetPacks: {', '.join(known)}")
    brought = read_toml(_HERE / "jetpacks" / f"{jetpack}.toml", f"JetPack {jetpack}")
    merged = {**brought, **content, "jetpack": jetpack}
    sources = brought["sources"]
    if variant is None and "jetpack" in content.get("sources", {}):
        sources = {**sources, "jetpack": f"{sources['jetpack']}; the bare name: {content['sources']['jetpack']}"}
    own_sources = {key: text for key, text in content.get("sources", {}).items() if key != "jetpack"}
    merged["sources"] = {**sources, **own_sources}
    merged["title"] = f"{content.get('title', name)}, {brought['title']}, TensorRT {merged['engine_version']}"
    return merged


def _target_from_content(content: dict[str, Any], where: str) -> Target:
    sources = content.get("sources", {})
    names = {entry.name for entry in fields(Target)} - {"sources"}
    for key in sources:
        if key not in names:
            raise CoformerError(
                f"[sources] names '{key}', which is no field", where, suggestion(key, names, noun="field")
            )
    values = {**content, "sources": sources, "sm": content.get("sm"), "jetpacks": tuple(content.get("jetpacks", ()))}
    values["gflops"] = float(content["gflops"])
    values["power_w"] = float(content["power_w"])
    values["precisions"] = tuple(content["precisions"])
    return Target(**values)


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


def _is_versions(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_version(each) for each in value)


_OPTIONAL = ("sm", "sources", "cuda", "jetpack", "jetpacks")
_KEYS: dict[str, Rule] = {
    "name": (_is_text, "a non-empty text"),
    "title": (_is_text, "a non-empty text"),
    "engine": (_is_one_of(*ENGINES), " or ".join(f"'{engine}'" for engine in ENGINES)),
    "jetpack": (_is_version, "a version such as '6.2'"),
    "jetpacks": (_is_versions, "a list of versions such as '6.2'"),
    "cuda": (_is_version, "a version such as '12.6', or leave it out"),
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
