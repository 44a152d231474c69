"""What must hold between the parts of one manifest."""

import re
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

from .dtypes import count_elements, dtype_named
from .manifest_fields import unsafe_path
from .manifest_profiles import broken_profiles

if TYPE_CHECKING:
    from .manifest import Manifest

ENGINE_KINDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
MAX_TENSOR_BYTES = (8 << 20) - 4096  # messages are capped at 8 MiB; the rest is for headers
DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def broken_rule(manifest: "Manifest") -> Optional[str]:
    """Return what is wrong with the manifest in words, or None."""
    for rule in RULES:
        broken = rule(manifest)
        if broken is not None:
            return broken
    return None


def _members(manifest: "Manifest") -> Optional[str]:
    names = manifest.members
    for name in names:
        if not DEVICE_NAME.fullmatch(name):
            return "'members' holds '{}', which is not a device name".format(name)
        if names.count(name) > 1:
            return "'members' names '{}' twice".format(name)
    if manifest.member >= len(names) or names[manifest.member] != manifest.device:
        return "member {} of 'members' is not the device '{}'".format(manifest.member, manifest.device)
    if manifest.central not in names:
        return "'central' names '{}', which is not one of 'members'".format(manifest.central)
    for name in manifest.standby:
        if name not in names or name == manifest.central or manifest.standby.count(name) > 1:
            return "'standby' names '{}', which is not another of 'members', once".format(name)
    return None


def _engine(manifest: "Manifest") -> Optional[str]:
    if manifest.engine.kind not in ENGINE_KINDS:
        return "'engine.kind' is '{}', known are {}".format(manifest.engine.kind, ", ".join(ENGINE_KINDS))
    if (manifest.engine.recipe is not None) != (manifest.engine.kind == "tensorrt"):
        return "'engine.recipe' belongs to an engine of kind 'tensorrt' and to no other"
    return None


def _vocabulary(manifest: "Manifest") -> Optional[str]:
    if not manifest.vocabulary:
        return None
    rows = manifest.input.shape[1:-1] or (1,)
    if dtype_named(manifest.input.dtype, "input").name not in ("int32", "int64") or rows != (len(manifest.vocabulary),):
        return "'vocabulary' has {} entries, the input is {} of shape {}".format(
            len(manifest.vocabulary), manifest.input.dtype, list(manifest.input.shape)
        )
    if min(manifest.vocabulary) < 1:
        return "'vocabulary' has an entry below 1"
    return None


def _tensors(manifest: "Manifest") -> Optional[str]:
    for key, spec in (("input", manifest.input), ("output", manifest.output), ("answer", manifest.answer)):
        if spec.shape[0] != 1:
            return "'{}.shape' has a batch axis of {}, not 1".format(key, spec.shape[0])
        size = count_elements(spec.shape) * dtype_named(spec.dtype, key).size_bytes
        if size > MAX_TENSOR_BYTES:
            return "'{}' has {:,} bytes, at most {:,} travel".format(key, size, MAX_TENSOR_BYTES)
    expected = count_elements(manifest.output.shape) * dtype_named(manifest.output.dtype, "output").size_bytes
    if manifest.wire_bytes != expected:
        return "'wire_bytes' is {}, the output tensor has {}".format(manifest.wire_bytes, expected)
    labels, classes = len(manifest.answer.labels), manifest.answer.shape[-1]
    if labels not in (0, classes):
        return "'answer.labels' has {} names for {} classes".format(labels, classes)
    return None


def _aggregators(manifest: "Manifest") -> Optional[str]:
    if not manifest.can_aggregate:
        if manifest.aggregators or manifest.golden.answer is not None:
            return "aggregators and a golden answer belong to the central device and those on standby only"
        return None
    subsets: List[Tuple[int, ...]] = []
    for spec in manifest.aggregators:
        ascending = tuple(sorted(set(spec.members)))
        if not ascending or ascending != spec.members or ascending[-1] >= len(manifest.members):
            return "an aggregator's members {} are not ascending member indices".format(list(spec.members))
        if spec.members in subsets:
            return "two aggregators for the members {}".format(list(spec.members))
        subsets.append(spec.members)
    if tuple(range(len(manifest.members))) not in subsets:
        return "the device aggregates, and has no aggregator for all members"
    if manifest.golden.answer is None:
        return "the device aggregates, and has no golden answer"
    return None


def _files(manifest: "Manifest") -> Optional[str]:
    listed = [spec.path for spec in manifest.files]
    for path in listed:
        if unsafe_path(path) or path == "manifest.json":
            return "'files' may not name '{}'".format(path)
    if listed != sorted(set(listed)):
        return "'files' is not sorted by path or names a file twice"
    named = [
        manifest.engine.file,
        manifest.engine.recipe,
        manifest.golden.input,
        manifest.golden.output,
        manifest.golden.answer,
    ] + [spec.file for spec in manifest.aggregators]
    if manifest.generation is not None:
        named += manifest.generation.graphs
    if manifest.profiles is not None:
        named += [path for spec in manifest.profiles.graphs for path in (spec.file, spec.golden)]
    for used in named:
        if used is not None and used not in listed:
            return "'{}' is used but not listed in 'files'".format(used)
    return None


def _profiles(manifest: "Manifest") -> Optional[str]:
    return broken_profiles(manifest, MAX_TENSOR_BYTES)


def _generation(manifest: "Manifest") -> Optional[str]:
    spec = manifest.generation
    if spec is None:
        return None
    if (spec.prefill is None) != (spec.chunk is None) or (spec.prefill is None) != (spec.source is not None):
        return "'generation' has either 'prefill' with 'chunk', or 'source'"
    return None


RULES: Tuple[Callable[["Manifest"], Optional[str]], ...] = (
    _members,
    _engine,
    _tensors,
    _profiles,
    _vocabulary,
    _aggregators,
    _files,
    _generation,
)
