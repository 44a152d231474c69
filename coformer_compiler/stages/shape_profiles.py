"""Shape profiles: each member's graph once more for every further length and batch size, proved against torch.

All of a member's graphs point into one file of weights. They are static, as TensorRT 8.2 wants them: one engine each,
in place of one engine with several optimisation profiles, whose graph would have dynamic axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.decomposer.shapes import MemberShape, cost_of_spec, feature_widths, member_spec
from coformer_compiler.device import Device
from coformer_compiler.evaluator.memory import BYTES, aggregator_mb, memory_mb
from coformer_compiler.model.shorten import at_length
from coformer_compiler.model.spec import InputSpec, StemSpec, TokenStemSpec, TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_runtime.dtypes import count_elements, dtype_named
from coformer_runtime.engines.profiled import in_batches
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest_profiles import ProfileSpec, ProfilesSpec, profiles_json
from coformer_runtime.manifest_rules import MAX_TENSOR_BYTES

WHERE, ONNX_RUNTIME = "config, [profiles]", "onnxruntime"


class Profile(NamedTuple):
    """One further graph: `batch` samples, of texts of `length` tokens; of the model's own length where None."""

    batch: int
    length: int | None

    @property
    def file(self) -> str:
        """Its path in the bundle, beside the member's own graph and weights."""
        return f"member.{self.batch}.onnx" if self.length is None else f"member.{self.batch}x{self.length}.onnx"

    def shape(self, whole: InputSpec) -> tuple[int, ...]:
        """The shape of its input; `whole` is the model's."""
        return (self.batch, *whole.shape) if self.length is None else (self.batch, *whole.shape[:-1], self.length)


def check_profiles(teacher: TransformerSpec, section: ProfilesSection) -> None:
    """Refuse profiles that the model cannot have, before anything takes time.

    Raises:
        CoformerError: lengths for a model of images, other lengths than the model's, a model that continues texts, a
            batch that is too large to travel.
    """
    if section == ProfilesSection():
        return
    stem = teacher.stem
    if section.share_weights and not further_profiles(section):
        raise CoformerError(
            "there is one graph alone", f"{WHERE}, share_weights", "name several lengths or batches, or leave it out"
        )
    if teacher.pool.kind == "causal":
        raise CoformerError(
            "the model continues texts, token by token, and has no profiles", WHERE, "leave the section out"
        )
    if section.lengths is not None:
        if not isinstance(stem, TokenStemSpec):
            raise CoformerError("the model reads no texts", f"{WHERE}, lengths", "leave it out")
        if section.lengths[-1] != stem.length:
            raise CoformerError(
                f"the longest is {section.lengths[-1]} tokens, the model's length is {stem.length}",
                f"{WHERE}, lengths",
                f"end it with {stem.length}, or set model.options.length = {section.lengths[-1]}",
            )
    sample = count_elements(stem.input.shape) * dtype_named(stem.input.dtype, "input").size_bytes
    if section.batches[-1] * sample > MAX_TENSOR_BYTES:
        raise CoformerError(
            f"a batch of {section.batches[-1]} has {section.batches[-1] * sample:,} bytes, at most "
            f"{MAX_TENSOR_BYTES:,} travel",
            f"{WHERE}, batches",
            f"name at most {MAX_TENSOR_BYTES // sample}",
        )


def check_room(
    teacher: TransformerSpec,
    shapes: Sequence[tuple[Device, MemberShape]],
    section: ProfilesSection,
    *,
    shortcuts: bool,
) -> None:
    """Refuse profiles that do not fit a device's memory: C6 with all graphs of a member loaded.

    Raises:
        CoformerError: naming the device, what is needed and what it has.
    """
    features = sum(feature_widths(teacher, [shape for _, shape in shapes]))
    for device, shape in shapes if further_profiles(section) else ():
        member = member_spec(teacher, shape, shortcuts=shortcuts)
        needed = memory_of_profiles(member, device, section, features=features)
        if needed > device.memory_mb:
            more = "set share_weights, " if device.target.engine == ONNX_RUNTIME and not section.share_weights else ""
            raise CoformerError(
                f"C6: with {1 + len(further_profiles(section))} profiles the member needs {needed:,.4g} MB of memory, "
                f"the device has {device.memory_mb:,.4g}: short by {needed - device.memory_mb:,.4g} MB",
                f"device '{device.name}'",
                f"name fewer lengths or batches in [profiles], {more}raise its memory_mb, or give it a smaller share",
            )


def memory_of_profiles(member: TransformerSpec, device: Device, section: ProfilesSection, *, features: int) -> float:
    """Megabytes (10⁶ bytes) for all graphs of a member at once, and for the aggregator where the device has one.

    TensorRT has the weights in every engine. ONNX Runtime lays out those of linears anew for every graph, unless they
    are to be shared, and maps tables of words once. Activations are those of the largest batch.
    `features` is how many all members together send.
    """
    cost, stem, further = cost_of_spec(member), member.stem, len(further_profiles(section))
    weight, activation = BYTES[device.target.precision]
    mapped = stem.vocabulary * stem.embed if isinstance(stem, TokenStemSpec) else 0
    again = cost.params
    if device.target.engine == ONNX_RUNTIME:
        again = 0 if section.share_weights else cost.params - mapped
    more = further * again * weight + (section.batches[-1] - 1) * cost.peak_elements * activation
    aggregator = aggregator_mb(member.head, float(features)) if device.aggregates else 0.0
    return memory_mb(cost, device.target, device.target.precision) + aggregator + more / 1e6


def further_profiles(section: ProfilesSection) -> list[Profile]:
    """The profiles besides the member's own graph, in the order of their shapes."""
    if section.lengths is None:
        return [Profile(batch, None) for batch in section.batches[1:]]
    return [
        Profile(batch, length)
        for batch in section.batches
        for length in section.lengths
        if (batch, length) != (1, section.lengths[-1])
    ]


def shaped(member: Transformer, profile: Profile, inputs: np.ndarray) -> tuple[Transformer, np.ndarray]:
    """The member at a profile's length, and inputs `(cases, …)` cut to it."""
    if profile.length is None or profile.length == inputs.shape[-1]:
        return member, inputs
    return at_length(member, profile.length), np.ascontiguousarray(inputs[..., : profile.length])


def feeds_of(name: str, inputs: np.ndarray, batch: int) -> list[dict[str, np.ndarray]]:
    """Inputs `(cases, …)` in batches of that size, as a graph's feeds."""
    return [{name: inputs[list(rows)]} for rows in in_batches(len(inputs), batch)]


@torch.no_grad()
def golden_outputs(
    member: Transformer, section: ProfilesSection, inputs: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """File and content of the golden outputs of every shorter length: of the same inputs, cut."""
    for length in (section.lengths or [0])[:-1]:
        shorter, cut = shaped(member, Profile(1, length), inputs)
        yield golden_file(length), shorter.sent(torch.from_numpy(cut)).numpy()


def golden_file(length: int) -> str:
    """Path of the golden outputs of a shorter length in the bundle."""
    return f"golden/output.{length}.npy"


def manifest_profiles(
    stem: StemSpec, section: ProfilesSection, golden: str, engine: str = ONNX_RUNTIME
) -> dict[str, Any] | None:
    """The manifest's section `profiles` as JSON values, None where there are none.

    Args:
        stem: the member's.
        section: of the configuration.
        golden: path of the golden outputs of the model's own length.
        engine: what runs the member.
    """
    whole = stem.input
    graphs = tuple(
        ProfileSpec(
            each.shape(whole),
            each.file,
            golden if each.length in (None, whole.shape[-1]) else golden_file(each.length),
        )
        for each in further_profiles(section)
    )
    padding = stem.pad if section.lengths is not None and isinstance(stem, TokenStemSpec) else None
    if not graphs and padding is None:
        return None
    shared = section.share_weights and engine == ONNX_RUNTIME and bool(graphs)
    return profiles_json(ProfilesSpec(graphs, padding, shared))
