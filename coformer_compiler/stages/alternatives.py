"""Alternatives for a changing network: one search, a policy per bandwidth, and what the boards are told of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.config import BuildConfig
from coformer_compiler.config.sections import ProfilesSection
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.decomposer.search.alternatives import Alternatives, alternatives_of
from coformer_compiler.decomposer.shapes import MaybeShape, feature_widths, kept_of, member_spec
from coformer_compiler.device import Device
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.report import schema
from coformer_compiler.stages.decompose import (
    Choice,
    decomposed,
    journal_of,
    recosting_of,
    search_policies,
)
from coformer_compiler.stages.shape_profiles import memory_of_profiles
from coformer_compiler.stages.summarise import Artifacts
from coformer_runtime.alternatives import INDEX_NAME, Index, index_json
from coformer_runtime.alternatives import Alternative as BoardAlternative
from coformer_runtime.alternatives import Range as BoardRange
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest import MANIFEST_NAME, load_manifest


@dataclass(frozen=True)
class Together:
    """All alternatives of a build.

    Attributes:
        found: which ones, and where they change.
        choices: one each.
        made: their artifacts, likewise.
        start: the number of the one for the bandwidth of `[network]`.
        index: what the boards are told.
        bundles: every device's folder, as it is shipped.
    """

    found: Alternatives
    choices: tuple[Choice, ...]
    made: tuple[Artifacts, ...]
    start: int
    index: Index
    bundles: Artifact


def decompose_alternatives(
    store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet, config: BuildConfig
) -> tuple[Alternatives, tuple[Choice, ...]]:
    """The policies for `network.bandwidths`; the search is the one that a build for one bandwidth makes.

    Raises:
        CoformerError: if nothing can be picked for a bandwidth, or a device has not the memory for all of them.
    """
    searched = search_policies(store, parents, teacher, data, config)
    recosting = recosting_of(journal_of(searched), teacher.spec, config)
    pick = config.search.pick
    found = alternatives_of(recosting, pick, config.network.bandwidths)
    check_memory(teacher.spec, config, [recosting.entries[each.number].shapes for each in found.built])
    choices, start = [], found.at(config.network.mbps)
    for n, each in enumerate(found.built):
        mbps = config.network.mbps if n == start else each.mbps  # what is reported of it
        options = {"pick": pick, "alternative": each.number}
        policy = decomposed(store, (*parents, searched), teacher, config, options, recosting.entries[each.number])
        network = config.network.model_copy(update={"mbps": mbps})
        entries = tuple(recosting.all_at(mbps))
        choices.append(Choice(replace(config, network=network), policy, each.name, entries, each.number))
    return found, tuple(choices)


def pack_alternatives(
    store: Store, found: Alternatives, choices: Sequence[Choice], made: Sequence[Artifacts], config: BuildConfig
) -> Together:
    """Stage "pack" once more: `DEVICE/NAME/` with the bundle of each alternative, and the index in every `DEVICE/`."""
    start = found.at(config.network.mbps)
    index = index_of(found, choices, made, start)

    def make(folder: Path, _work: Path) -> None:
        for choice, artifacts in zip(choices, made, strict=True):
            for device in choice.members.devices:
                shutil.copytree(artifacts.bundles.path / device.name, folder / device.name / choice.name)
        for device_folder in folder.iterdir():
            (device_folder / INDEX_NAME).write_text(index_json(index), encoding="ascii")

    bundles = store.stage("pack", [each.bundles for each in made], {"index": index_json(index)}, make)
    return Together(found, tuple(choices), tuple(made), start, index, bundles)


def index_of(found: Alternatives, choices: Sequence[Choice], made: Sequence[Artifacts], start: int) -> Index:
    """What the boards are told of the alternatives."""
    alternatives = []
    for alternative, choice, artifacts in zip(found.built, choices, made, strict=True):
        folders = {device.name: artifacts.bundles.path / device.name for device in choice.members.devices}
        manifest = load_manifest(str(folders[choice.members.devices[choice.members.central].name]))
        whole = max(manifest.aggregators, key=lambda each: len(each.members))
        manifests = tuple(sorted((name, file_digest(folder / MANIFEST_NAME)) for name, folder in folders.items()))
        alternatives.append(
            BoardAlternative(
                alternative.name, manifest.build, manifests, whole.expected_accuracy, alternative.latency_ms
            )
        )
    names = [each.name for each in found.built]
    return Index(
        found.bandwidths,
        found.estimated,
        names[start],
        tuple(alternatives),
        tuple(BoardRange(each.from_mbps, each.to_mbps, names[each.alternative]) for each in found.ranges),
    )


def memory_together(
    teacher: TransformerSpec,
    devices: Sequence[Device],
    profiles: ProfilesSection,
    policies: Sequence[Sequence[MaybeShape]],
    *,
    shortcuts: bool,
) -> Mapping[str, float]:
    """Device → megabytes (10⁶ bytes) for its members of all policies together; the engine library counts once."""
    needed: dict[str, float] = {}
    features = [sum(feature_widths(teacher, kept_of(devices, shapes)[1])) for shapes in policies]
    for n, device in enumerate(devices):
        library = device.target.runtime_mb
        members = [(shapes[n], sent) for shapes, sent in zip(policies, features, strict=True)]
        specs = [(member_spec(teacher, shape, shortcuts=shortcuts), sent) for shape, sent in members if shape]
        if specs:
            own = sum(memory_of_profiles(spec, device, profiles, features=sent) - library for spec, sent in specs)
            needed[device.name] = own + library
    return needed


def check_memory(teacher: TransformerSpec, config: BuildConfig, policies: Sequence[Sequence[MaybeShape]]) -> None:
    """C6 for all alternatives together: a board keeps them open at the same time, so that a change takes no time.

    Raises:
        CoformerError: naming the first device that has not the memory, and by how much.
    """
    together = memory_together(
        teacher, config.devices, config.profiles, policies, shortcuts=config.policy.basis != "global"
    )
    for device in config.devices:
        needed = together.get(device.name, 0.0)
        if needed > device.memory_mb:
            raise CoformerError(
                f"C6: the members of {len(policies)} alternatives need {needed:,.4g} MB of memory together, the "
                f"device has {device.memory_mb:,.4g}: short by {needed - device.memory_mb:,.4g} MB",
                f"device '{device.name}'",
                f"name fewer bandwidths, or raise memory_mb of '{device.name}'",
            )


def summarise_alternatives(together: Together, teacher: TransformerSpec, config: BuildConfig) -> schema.Alternatives:
    """What the report says of them."""
    shapes = [choice.entries[choice.number].shapes for choice in together.choices]
    memory = memory_together(
        teacher, config.devices, config.profiles, shapes, shortcuts=config.policy.basis != "global"
    )
    built = tuple(
        schema.Alternative(
            told.name,
            told.build,
            tuple(device.name for device in choice.members.devices),
            told.expected_accuracy,
            told.predicted_ms,
        )
        for told, choice in zip(together.index.alternatives, together.choices, strict=True)
    )
    return schema.Alternatives(
        together.found.bandwidths,
        together.index.estimated,
        built,
        tuple(schema.Range(each.from_mbps, each.to_mbps, each.alternative) for each in together.found.ranges),
        together.start,
        {name: int(megabytes * 1e6) for name, megabytes in memory.items()},
    )
