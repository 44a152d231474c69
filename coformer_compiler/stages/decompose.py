"""Stage "decompose": devices and importance to a policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.config import BuildConfig, PolicySection
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.decomposer.decompose import decompose
from coformer_compiler.decomposer.options import PolicyOptions
from coformer_compiler.decomposer.policy import Policy, policy_json, read_policy, teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.front import picked
from coformer_compiler.decomposer.search.journal import Entry, Origin, read_journal
from coformer_compiler.decomposer.search.recost import Recosting
from coformer_compiler.decomposer.search.search import SearchOptions, search
from coformer_compiler.decomposer.search.space import Preflight, Space
from coformer_compiler.decomposer.strategies import SEARCHES, STRATEGIES, shapes_by_strategy
from coformer_compiler.device import Device
from coformer_compiler.evaluator.latency import LatencyModel, Network
from coformer_compiler.evaluator.recipe import Recipe, score_many, written_recipe
from coformer_compiler.evaluator.score import Loss, unit_ms
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.stages.calibrate import statistics_of
from coformer_compiler.transplant.statistics import Statistics
from coformer_runtime.errors import CoformerError

POLICY, NOTES, JOURNAL, PREFLIGHT = "policy.json", "notes.json", "journal.jsonl", "preflight.json"


@dataclass(frozen=True)
class Choice:
    """A policy that is built.

    Attributes:
        config: with the bandwidth that is reported of.
        policy: artifact of "decompose".
        name: of the alternative; "" where there is one policy.
        entries: of an alternative, the search's evaluations as they are at that bandwidth.
        number: the policy's own among them.
    """

    config: BuildConfig
    policy: Artifact
    name: str = ""
    entries: tuple[Entry, ...] = ()
    number: int = 0

    @property
    def members(self) -> BuildConfig:
        """The configuration without the devices that the policy leaves out."""
        return self.config.with_members([member.device for member in policy_of(self.policy).members])


def policy_options(section: PolicySection) -> PolicyOptions:
    """The options of `[policy]` that decide the policy itself.

    Costs count shortcut matrices whenever the members may get them.
    """
    shortcuts = section.method == "transplant" and section.basis != "global"
    layers = None if section.layers is None else tuple(section.layers)
    return PolicyOptions(
        section.strategy, section.file, section.overlap, section.method, shortcuts, section.embed, layers
    )


def network_of(config: BuildConfig) -> Network:
    """The link of `[network]`."""
    section = config.network
    return Network(section.mbps, section.rtt_ms, section.input, section.node_ms)


def require_feasible(teacher: TransformerSpec, config: BuildConfig) -> None:
    """Refuse devices that not even the smallest member fits, before anything takes time.

    Raises:
        CoformerError: naming device, constraint and shortfall.
    """
    if config.policy.strategy in STRATEGIES:
        shapes_by_strategy(policy_options(config.policy), teacher, config.devices)
    elif config.policy.strategy in SEARCHES:
        _space(teacher, (0.0,) * len(teacher.layers), config).require_possible()


def decompose_teacher(
    store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet, config: BuildConfig
) -> Artifact:
    """The policy as policy.json, with notes on what had to give way, and for a search its journal.

    Args:
        store: where the artifact goes.
        parents: the artifacts of import and calibrate.
        teacher: the imported model.
        data: a search scores its candidates on it.
        config: policy, devices, and what a search needs.
    """
    if config.policy.strategy not in SEARCHES:
        return decomposed(store, parents, teacher, config, {}, None)
    searched = search_policies(store, parents, teacher, data, config)
    estimated = LatencyModel(teacher.spec, config.devices, network_of(config)).estimated
    chosen = picked(journal_of(searched), config.search.pick, estimated=estimated)
    return decomposed(store, (*parents, searched), teacher, config, {"pick": config.search.pick}, chosen)


def decomposed(
    store: Store,
    parents: Sequence[Artifact],
    teacher: Transformer,
    config: BuildConfig,
    options: Mapping[str, Any],
    chosen: Entry | None,
) -> Artifact:
    """The stage "decompose" itself.

    Args:
        store: where the artifact goes.
        parents: the artifacts of import and calibrate, and of search where there was one.
        teacher: the imported model.
        config: policy and devices.
        options: what `chosen` was picked by.
        chosen: the entry of the search's journal to make a policy of; None where nothing was searched.
    """
    section, devices = config.policy, config.devices
    keyed: dict[str, Any] = {
        "policy": section.model_dump(mode="json", exclude={"file"}),
        "file": file_digest(section.file) if section.file is not None and section.file.is_file() else None,
        "devices": [[d.name, _facts(d), d.gflops, d.memory_mb, d.max_gflop, d.central, d.standby] for d in devices],
        **options,
    }

    def make(folder: Path, _work: Path) -> None:
        statistics = statistics_of(parents[1])
        for searched in parents[2:]:
            shutil.copyfile(searched.path / JOURNAL, folder / JOURNAL)
            shutil.copyfile(searched.path / PREFLIGHT, folder / PREFLIGHT)
        shapes = None if chosen is None else chosen.shapes
        found = decompose(teacher.spec, statistics, devices, policy_options(section), shapes)
        (folder / POLICY).write_text(policy_json(found.policy), encoding="utf-8")
        (folder / NOTES).write_text(json.dumps(found.notes), encoding="utf-8")

    return store.stage("decompose", parents, keyed, make)


def search_policies(
    store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet, config: BuildConfig
) -> Artifact:
    """Stage "search": the journal of all evaluated policies, and what the preflight found.

    Raises:
        CoformerError: if nothing fits the devices, or an earlier journal is of something else.
    """
    section, budget, devices = config.policy, config.search, config.devices
    if section.method == "index":
        raise CoformerError("searches score transplanted members", "policy.method", "set it to 'transplant'")
    samples = Split(data.calibration.inputs[: budget.samples], data.calibration.labels[: budget.samples])
    loss = counted_loss(section)
    network = network_of(config)
    described = [
        [d.name, _facts(d), d.gflops, d.memory_mb, d.max_gflop, d.central, d.standby, d.deadline_ms, _measured(d)]
        for d in devices
    ]
    origin = Origin(
        parents[0].sha256,
        f"{data.sha256} {len(samples)}",
        json.dumps([described, config.network.model_dump(exclude={"bandwidths"})]),
        json.dumps([loss, budget.delta, section.basis, section.overlap, section.importance, budget.drop]),
    )
    options = {
        "strategy": section.strategy,
        "origin": asdict(origin),
        "search": budget.model_dump(mode="json", exclude={"pick", "jobs", "journal"}),
        "journal": None if budget.journal is None else _journal_digest(budget.journal),
        "seed": config.seed,
    }

    def make(folder: Path, work: Path) -> None:
        statistics = statistics_of(parents[1])
        recipe = Recipe(
            work / "recipe",
            devices,
            "global" if section.basis == "global" else "per-norm",
            network,
            budget.delta,
            loss,
        )
        recipe = written_recipe(recipe, teacher, statistics, samples, data.validation)
        space = search_space(teacher.spec, statistics, config)
        found = space.preflight(config.seed)
        (folder / PREFLIGHT).write_text(json.dumps(asdict(found), sort_keys=True), encoding="utf-8")
        store.progress.note(f"search space: {found.fits:.0%} fits as drawn, {found.fits_shrunk:.0%} after shrinking")
        if budget.journal is not None and not (work / JOURNAL).exists():
            shutil.copyfile(budget.journal, work / JOURNAL)
        search(
            space,
            lambda shapes: score_many(recipe, shapes, budget.jobs),
            delta_per_ms(teacher.spec, config),
            [space.encoding.point_of_shares(shares(devices)) for shares in STRATEGIES.values()],
            SearchOptions(
                budget.iterations,
                budget.initial,
                section.strategy,
                config.seed,
                budget.batch,
                None if budget.minutes is None else 60 * budget.minutes,
            ),
            work / JOURNAL,
            origin,
            store.progress,
        )
        shutil.copyfile(work / JOURNAL, folder / JOURNAL)

    return store.stage("search", parents, options, make)


def counted_loss(section: PolicySection) -> Loss:
    """Which loss the strategy's objective counts."""
    return "members" if section.strategy == "debo-paper" else "aggregated"


def search_space(teacher: TransformerSpec, statistics: Statistics, config: BuildConfig) -> Space:
    """The space that a configuration's search looks at."""
    return _space(teacher, tuple(float(value) for value in statistics.influence), config)


def _space(teacher: TransformerSpec, influence: tuple[float, ...], config: BuildConfig) -> Space:
    section = config.policy
    encoding = Encoding(teacher_shape(teacher), config.devices, influence, section.overlap, config.search.drop)
    return Space(encoding, teacher, network_of(config), shortcuts=section.basis != "global")


def delta_per_ms(teacher: TransformerSpec, config: BuildConfig) -> float:
    """δ over the unit of T, the teacher's latency on the fastest device."""
    return config.search.delta / unit_ms(teacher, config.devices)


def recosting_of(entries: Sequence[Entry], teacher: TransformerSpec, config: BuildConfig) -> Recosting:
    """A search's journal, to be looked at for other bandwidths."""
    return Recosting(
        entries,
        teacher,
        config.devices,
        network_of(config),
        delta_per_ms=delta_per_ms(teacher, config),
        loss=counted_loss(config.policy),
        shortcuts=config.policy.basis != "global",
    )


def journal_of(artifact: Artifact) -> list[Entry]:
    """All evaluations of a search."""
    return read_journal(artifact.path / JOURNAL)


def preflight_of(artifact: Artifact) -> Preflight:
    """What the preflight found."""
    return Preflight(**json.loads((artifact.path / PREFLIGHT).read_text(encoding="utf-8")))


def _facts(device: Device) -> str:
    """All that is known of the device's target; where it is known from changes no policy."""
    return repr(replace(device.target, sources={}))


def _measured(device: Device) -> str | None:
    """Digest of the predictor that the device's latencies come from."""
    return None if device.predictor is None else device.predictor.sha256


def searched_in(policy: Artifact) -> list[Entry]:
    """All evaluations of the search behind a policy; none where it was not searched."""
    journal = policy.path / JOURNAL
    return read_journal(journal) if journal.exists() else []


def _journal_digest(path: Path) -> str:
    if not path.is_file():
        raise CoformerError("there is no such file", f"search.journal {path}", "name a journal.jsonl, or leave it away")
    return file_digest(path)


def policy_of(artifact: Artifact) -> Policy:
    """The policy on disk."""
    return read_policy(artifact.path / POLICY)


def notes_of(artifact: Artifact) -> list[str]:
    """What had to give way."""
    notes: list[str] = json.loads((artifact.path / NOTES).read_text(encoding="utf-8"))
    return notes
