"""Stage "decompose": devices and importance to a policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.compute import computing_device
from coformer_compiler.config import BuildConfig, PolicySection
from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.decomposer.decompose import PolicyOptions, decompose
from coformer_compiler.decomposer.policy import Policy, policy_json, read_policy, teacher_shape
from coformer_compiler.decomposer.search.encoding import Encoding
from coformer_compiler.decomposer.search.journal import Entry, append
from coformer_compiler.decomposer.search.search import SearchOptions, best_of, search
from coformer_compiler.decomposer.strategies import SEARCHES, STRATEGIES, shapes_by_strategy
from coformer_compiler.evaluator.latency import Network
from coformer_compiler.evaluator.score import Evaluator
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.progress import Progress
from coformer_compiler.stages.calibrate import statistics_of
from coformer_compiler.transplant.statistics import Statistics
from coformer_runtime.errors import CoformerError

POLICY, NOTES, JOURNAL = "policy.json", "notes.json", "journal.jsonl"


def policy_options(section: PolicySection) -> PolicyOptions:
    """The options of `[policy]` that decide the policy itself.

    Costs count shortcut matrices whenever the members may get them.
    """
    shortcuts = section.method == "transplant" and section.basis != "global"
    return PolicyOptions(section.strategy, section.file, section.overlap, section.method, shortcuts)


def network_of(config: BuildConfig) -> Network:
    """The link of `[network]`."""
    return Network(config.network.mbps, config.network.rtt_ms, config.network.input)


def require_feasible(teacher: TransformerSpec, config: BuildConfig) -> None:
    """Refuse devices that not even the smallest member fits, before anything takes time.

    Raises:
        CoformerError: naming device, constraint and shortfall.
    """
    if config.policy.strategy in STRATEGIES:
        options = policy_options(config.policy)
        shapes_by_strategy(
            options.strategy, teacher, config.devices, overlap=options.overlap, shortcuts=options.shortcuts
        )


def decompose_teacher(
    store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet, config: BuildConfig
) -> Artifact:
    """The policy as policy.json, with notes on what had to give way; a search leaves its journal beside it.

    Args:
        store: where the artifact goes.
        parents: the artifacts of import and calibrate.
        teacher: the imported model.
        data: a search scores its candidates on it.
        config: policy, devices, and what a search needs.
    """
    section, devices = config.policy, config.devices
    options: dict[str, Any] = {
        "policy": section.model_dump(mode="json", exclude={"file"}),
        "file": file_digest(section.file) if section.file is not None and section.file.is_file() else None,
        "devices": [[d.name, repr(d.target), d.gflops, d.memory_mb, d.max_gflop, d.central] for d in devices],
    }
    searching = section.strategy in SEARCHES
    if searching:
        predictors = [None if d.predictor is None else d.predictor.sha256 for d in devices]
        budget = [config.search.model_dump(), config.network.model_dump(), predictors, config.seed, data.sha256]
        options["search"] = budget

    def make(folder: Path, work: Path) -> None:
        statistics = statistics_of(parents[1])
        searched = None
        if searching:
            entries = _search(teacher, statistics, data, config, work / JOURNAL, store.progress)
            searched = best_of(entries).shapes
            append(folder / JOURNAL, entries)
        found = decompose(teacher.spec, statistics, devices, policy_options(section), searched)
        (folder / POLICY).write_text(policy_json(found.policy), encoding="utf-8")
        (folder / NOTES).write_text(json.dumps(found.notes), encoding="utf-8")

    return store.stage("decompose", parents, options, make)


def _search(
    teacher: Transformer, statistics: Statistics, data: DataSet, config: BuildConfig, journal: Path, progress: Progress
) -> list[Entry]:
    section, budget = config.policy, config.search
    if section.method == "index":
        raise CoformerError("searches score transplanted members", "policy.method", "set it to 'transplant'")
    teacher.to(computing_device())
    evaluator = Evaluator(
        teacher,
        statistics,
        config.devices,
        Split(data.calibration.inputs[: budget.samples], data.calibration.labels[: budget.samples]),
        data.validation,
        basis="global" if section.basis == "global" else "per-norm",
        network=network_of(config),
        delta=budget.delta,
        overlap=section.overlap,
    )
    influence = tuple(float(value) for value in statistics.influence)
    encoding = Encoding(teacher_shape(teacher.spec), config.devices, influence, section.overlap)
    starts = [encoding.point_of_shares(shares(config.devices)) for shares in STRATEGIES.values()]
    method: Literal["debo", "random"] = "debo" if section.strategy == "debo" else "random"
    options = SearchOptions(budget.iterations, budget.initial, method, config.seed)
    entries = search(encoding, evaluator, starts, options, journal, progress)
    teacher.cpu()
    return entries


def policy_of(artifact: Artifact) -> Policy:
    """The policy on disk."""
    return read_policy(artifact.path / POLICY)


def notes_of(artifact: Artifact) -> list[str]:
    """What had to give way."""
    notes: list[str] = json.loads((artifact.path / NOTES).read_text(encoding="utf-8"))
    return notes
