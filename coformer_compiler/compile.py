"""The compiler, stage by stage: the table of contents of the toolchain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from coformer_compiler.artifact import Artifact, NotCached, Store, first_process
from coformer_compiler.compute import use_fitting_threads
from coformer_compiler.config import BuildConfig
from coformer_compiler.data import DataSet, load_data, load_running_text, load_text2text, load_texts
from coformer_compiler.decomposer.policy import policy_json
from coformer_compiler.decomposer.search.alternatives import Alternatives, alternatives_of
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.space import Preflight
from coformer_compiler.decomposer.shapes import shape_of_member
from coformer_compiler.evaluator.latency import LatencyModel
from coformer_compiler.model.spec import PatchStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.output import locked, publish, publish_alternatives, write_whole
from coformer_compiler.progress import Progress
from coformer_compiler.report.schema import Report
from coformer_compiler.stages.alternatives import (
    Together,
    decompose_alternatives,
    pack_alternatives,
    summarise_alternatives,
)
from coformer_compiler.stages.boost import boost_members
from coformer_compiler.stages.calibrate import calibrate
from coformer_compiler.stages.deadlines import require_in_time
from coformer_compiler.stages.decompose import (
    JOURNAL,
    Choice,
    decompose_teacher,
    journal_of,
    network_of,
    notes_of,
    policy_of,
    policy_options,
    preflight_of,
    recosting_of,
    require_feasible,
)
from coformer_compiler.stages.evaluate import evaluate
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher, require_same_order, tokenizer_of
from coformer_compiler.stages.lower import lower_members, require_builders
from coformer_compiler.stages.measure import measure
from coformer_compiler.stages.pack import pack_bundles
from coformer_compiler.stages.searched import shrunk_notes
from coformer_compiler.stages.shape_profiles import check_profiles, check_room
from coformer_compiler.stages.summarise import Artifacts, report_from_artifacts
from coformer_compiler.stages.targets import label_with_teacher
from coformer_compiler.stages.transplant import transplant_members
from coformer_runtime.errors import CoformerError

STAGES = ("import", "calibrate", "decompose", "transplant", "boost", "evaluate", "lower", "pack", "measure")


@dataclass(frozen=True)
class Built:
    """A finished build: its report, and whether any stage had to run."""

    report: Report
    changed: bool


def build(config: BuildConfig, out: Path, progress: Progress) -> Built:
    """Compile the teacher into one bundle per device under `out`.

    Raises:
        CoformerError: for what the user can mend; the stage's own text says what, where and how.
        CheckFailed: if something that was built is not what it should be.
    """
    with locked(out):
        store = Store(out / "cache", progress)
        base = _lay_base(store, config)
        report = _build_alternatives(store, base, out) if config.network.bandwidths else _build_one(store, base, out)
        changed = not all(artifact.cached for artifact in store.used)
        if first_process():
            store.prune()
    return Built(report, changed)


def plan(config: BuildConfig, out: Path, progress: Progress) -> dict[str, bool]:
    """What a build would do: `{stage: cached}` in order. Nothing is written.

    A stage behind a missing one is missing.
    """
    store = Store(out / "cache", progress, read_only=True)
    reached = len(STAGES)
    try:
        base = _lay_base(store, config)
        if config.network.bandwidths:
            _compile_alternatives(store, base)
        else:
            _compile_policy(store, base, _choose(store, base))
    except NotCached as error:
        if error.kind in STAGES:  # of another alternative, what is behind it may be there
            reached = STAGES.index(error.kind)
    cached = {artifact.kind for artifact in store.used}
    return {stage: stage in cached and n < reached for n, stage in enumerate(STAGES)}


class Searched(NamedTuple):
    """All that was evaluated, how much of the space fits, and whether latencies rest on less than measurements.

    `alternatives` are the policies for `network.bandwidths`, where such are given; `notes` say what gave way for the
    one that was picked.
    """

    entries: list[Entry]
    preflight: Preflight
    estimated: bool
    alternatives: Alternatives | None
    notes: tuple[str, ...]


def search_only(config: BuildConfig, out: Path, progress: Progress) -> Searched:
    """The stages up to the policy of a searching strategy; writes policy.json and journal.jsonl into `out`."""
    with locked(out):
        store = Store(out / "cache", progress)
        imported = import_teacher(store, config.model)
        teacher = load_teacher(imported)
        use_fitting_threads(teacher.cost(with_head=True).flops)
        require_feasible(teacher.spec, config)
        data = label_with_teacher(store, imported, teacher, load_build_data(config, imported, teacher))
        statistics = calibrate(store, imported, teacher, data, config.policy.importance)
        policy = decompose_teacher(store, (imported, statistics), teacher, data, config)
        write_whole(out / "policy.json", policy_json(policy_of(policy)))
        write_whole(out / JOURNAL, (policy.path / JOURNAL).read_text(encoding="utf-8"))
    estimated = LatencyModel(teacher.spec, config.devices, network_of(config)).estimated
    entries = journal_of(policy)
    told = None
    if config.network.bandwidths:
        recosting = recosting_of(entries, teacher.spec, config)
        told = alternatives_of(recosting, config.search.pick, config.network.bandwidths)
    notes = (*notes_of(policy), *shrunk_notes(Choice(config, policy), statistics, teacher.spec))
    return Searched(entries, preflight_of(policy), estimated, told, notes)


class _Base(NamedTuple):
    """What every policy of a build rests on."""

    config: BuildConfig
    imported: Artifact
    statistics: Artifact
    teacher: Transformer
    data: DataSet


def _build_one(store: Store, base: _Base, out: Path) -> Report:
    """The build for the bandwidth of `[network]`."""
    choice = _choose(store, base)
    made = _compile_policy(store, base, choice)
    report = report_from_artifacts(made, choice, base.teacher, base.data, store.used)
    if first_process():
        publish(made, report, choice.members, out)
    return report


def _build_alternatives(store: Store, base: _Base, out: Path) -> Report:
    """One build per policy of `network.bandwidths`; the report is that of the one that is begun with."""
    together = _compile_alternatives(store, base)
    told = summarise_alternatives(together, base.teacher.spec, base.config)
    reports = [
        replace(
            report_from_artifacts(made, choice, base.teacher, base.data, store.used),
            alternatives=replace(told, this=number),
        )
        for number, (choice, made) in enumerate(zip(together.choices, together.made, strict=True))
    ]
    if first_process():
        publish_alternatives(together, reports, out)
    return reports[together.start]


def _compile_alternatives(store: Store, base: _Base) -> Together:
    parents = (base.imported, base.statistics)
    found, choices = decompose_alternatives(store, parents, base.teacher, base.data, base.config)
    made = tuple(_compile_policy(store, base, choice) for choice in choices)
    return pack_alternatives(store, found, choices, made, base.config)


def _choose(store: Store, base: _Base) -> Choice:
    parents = (base.imported, base.statistics)
    return Choice(base.config, decompose_teacher(store, parents, base.teacher, base.data, base.config))


def _lay_base(store: Store, config: BuildConfig) -> _Base:
    """The stages that hang on no policy."""
    require_builders(config.devices)
    imported = import_teacher(store, config.model)
    teacher = load_teacher(imported)
    use_fitting_threads(teacher.cost(with_head=True).flops)
    check_profiles(teacher.spec, config.profiles)
    require_feasible(teacher.spec, config)
    require_in_time(teacher.spec, config)
    data = label_with_teacher(store, imported, teacher, load_build_data(config, imported, teacher))
    return _Base(config, imported, calibrate(store, imported, teacher, data, config.policy.importance), teacher, data)


def _compile_policy(store: Store, base: _Base, choice: Choice) -> Artifacts:
    """The stages behind a policy."""
    _, imported, statistics, teacher, data = base
    policy, chosen, config = choice.policy, policy_of(choice.policy), choice.members
    shapes = [shape_of_member(member) for member in chosen.members]
    shortcuts = policy_options(config.policy).shortcuts
    check_room(teacher.spec, list(zip(config.devices, shapes, strict=True)), config.profiles, shortcuts=shortcuts)
    transplanted = transplant_members(store, (imported, statistics, policy), teacher, chosen, data, config.policy)
    boosted = boost_members(store, (imported, transplanted), teacher, data, config.booster)
    accuracy = evaluate(store, (imported, transplanted, boosted), teacher, data)
    graphs = lower_members(store, boosted, config, data)
    bundles = pack_bundles(store, (graphs, accuracy), teacher.spec, chosen, config, data)
    latency = measure(store, (imported, bundles), teacher, config)
    return Artifacts(imported, statistics, policy, transplanted, boosted, accuracy, graphs, bundles, latency)


def load_build_data(config: BuildConfig, imported: Artifact, teacher: Transformer) -> DataSet:
    """The build's data in the form that the teacher takes.

    Raises:
        CoformerError: if the data cannot be read, or has other classes than the teacher's head.
    """
    stem, classes, section = teacher.stem.spec, teacher.head.classes, config.data
    if isinstance(stem, PatchStemSpec):
        data = load_data(
            section.source,
            image_size=stem.image_size,
            channels=stem.channels,
            seed=config.seed,
            calibration=section.calibration,
            crop=section.crop,
        )
    elif teacher.spec.bridge is not None:
        data = load_text2text(
            section.source,
            tokenizer_of(imported, stem),
            teacher.spec.bridge,
            seed=config.seed,
            calibration=section.calibration,
            truncate=section.truncate,
        )
    elif teacher.spec.pool.kind == "causal":
        tokenizer = tokenizer_of(imported, stem)
        data = load_running_text(section.source, tokenizer, seed=config.seed, calibration=section.calibration)
    else:
        tokenizer = tokenizer_of(imported, stem)
        data = load_texts(
            section.source,
            tokenizer,
            seed=config.seed,
            calibration=section.calibration,
            truncate=section.truncate,
        )
        require_same_order(imported, data.class_names, f"data.source '{section.source}'")
    if not data.task.labels_from_teacher and data.outputs != classes:
        has = f"{data.classes} classes" if data.classes else "one number a sample"
        raise CoformerError(
            f"the data has {has}, the teacher answers with {classes}",
            f"data.source '{config.data.source}'",
            "give the data that the teacher was trained for, or a teacher fine-tuned on this data",
        )
    return data
