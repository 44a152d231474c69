"""What is told of a search: its evaluations, what the chosen policy was shrunk onto, and how other searches went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from coformer_compiler.artifact import Artifact, file_digest, load_artifact
from coformer_compiler.config import BuildConfig
from coformer_compiler.decomposer.search.front import pareto_front, picked
from coformer_compiler.decomposer.search.journal import Entry, read_journal
from coformer_compiler.decomposer.search.space import Space
from coformer_compiler.model.spec import TransformerSpec
from coformer_compiler.report import schema
from coformer_compiler.stages.calibrate import statistics_of
from coformer_compiler.stages.decompose import (
    JOURNAL,
    Choice,
    policy_of,
    preflight_of,
    recosting_of,
    search_space,
    searched_in,
)


def entries_of(choice: Choice) -> list[Entry]:
    """All evaluations of the search behind a choice; none where it was not searched."""
    return list(choice.entries) or searched_in(choice.policy)


def entry_of(choice: Choice) -> Entry | None:
    """The evaluation that the choice was picked from; None where it was not searched."""
    entries = entries_of(choice)
    if choice.entries or not entries:
        return choice.entries[choice.number] if entries else None
    return picked(entries, choice.config.search.pick)


def search_told(choice: Choice, teacher: TransformerSpec) -> schema.Search | None:
    """What the report says of the search; None where the policy was not searched."""
    config, entries, chosen = choice.config, entries_of(choice), entry_of(choice)
    if chosen is None:
        return None
    evaluations = tuple(
        schema.Evaluation(
            entry.score.objective,
            entry.score.loss,
            entry.score.latency.total_ms,
            entry.score.energy_mj,
            sum(shape is not None for shape in entry.shapes),
        )
        for entry in entries
    )
    preflight, recosting = preflight_of(choice.policy), recosting_of(entries, teacher, config)
    return schema.Search(
        config.policy.strategy,
        config.search.pick,
        evaluations,
        tuple(entries.index(entry) for entry in pareto_front(entries)),
        entries.index(chosen),
        preflight.fits,
        preflight.binding,
        recosting.estimated,
        other_searches(choice.policy, teacher, config),
    )


def shrunk_notes(choice: Choice, statistics: Artifact, teacher: TransformerSpec) -> list[str]:
    """A line for each limit that the chosen policy's members were made smaller for; none where nothing was searched."""
    chosen = entry_of(choice)
    if chosen is None:
        return []
    return shrunk_in(search_space(teacher, statistics_of(statistics), choice.config), chosen)


def shrunk_in(space: Space, entry: Entry) -> list[str]:
    """The same of one evaluation: what its point would break as it was drawn."""
    names = [device.name for device in space.devices]
    drawn = space.encoding.decode(np.array(entry.point), [1.0] * len(names))
    if drawn == entry.shapes:
        return []
    return [
        f"'{name}' was shrunk until {constraint if constraint != 'deadline' else 'its deadline'} held"
        for constraint, found in space.broken([drawn]).items()
        for name, broken in zip(names, found[0].tolist(), strict=True)
        if broken
    ]


def other_searches(policy: Artifact, teacher: TransformerSpec, config: BuildConfig) -> tuple[schema.OtherSearch, ...]:
    """Searches of the same model, data and cluster in the same cache, by the objective of this one.

    What their own objective counted makes no difference: losses and latencies are all in the journals.
    """
    own = policy.path / JOURNAL
    known, wanted, found = {file_digest(own)}, _comparable(own), []
    for journal in sorted(policy.path.parent.glob(f"*/{JOURNAL}"), key=_age):
        other = load_artifact(policy.kind, journal.parent)
        if other is None or (digest := file_digest(journal)) in known or _comparable(journal) != wanted:
            continue
        known.add(digest)
        entries = recosting_of(read_journal(journal), teacher, config).all_at(config.network.mbps)
        objectives = tuple(entry.score.objective for entry in entries)
        found.append(schema.OtherSearch(policy_of(other).strategy, objectives))
    return tuple(found)


def _comparable(journal: Path) -> tuple[object, ...]:
    """What two journals have to share: their origins but for which loss the objective counts."""
    with journal.open(encoding="utf-8") as lines:
        header = json.loads(next(lines))
    return header["teacher"], header["data"], header["devices"], json.loads(header["objective"])[1:]


def _age(journal: Path) -> float:
    return journal.stat().st_mtime
