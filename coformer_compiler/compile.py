"""The compiler, stage by stage: the table of contents of the toolchain."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from coformer_compiler.artifact import Artifact, NotCached, Store, first_process
from coformer_compiler.compute import use_fitting_threads
from coformer_compiler.config import BuildConfig
from coformer_compiler.data import DataSet, load_data, load_running_text, load_text2text, load_texts
from coformer_compiler.decomposer.policy import policy_json
from coformer_compiler.decomposer.search.journal import Entry
from coformer_compiler.decomposer.search.space import Preflight
from coformer_compiler.evaluator.latency import LatencyModel
from coformer_compiler.model.spec import PatchStemSpec
from coformer_compiler.model.transformer import Transformer
from coformer_compiler.output import locked, publish, write_whole
from coformer_compiler.progress import Progress
from coformer_compiler.report.schema import Report
from coformer_compiler.stages.boost import boost_members
from coformer_compiler.stages.calibrate import calibrate
from coformer_compiler.stages.decompose import (
    JOURNAL,
    decompose_teacher,
    journal_of,
    network_of,
    policy_of,
    policy_options,
    preflight_of,
    require_feasible,
)
from coformer_compiler.stages.evaluate import evaluate
from coformer_compiler.stages.import_teacher import import_teacher, load_teacher, require_same_order, tokenizer_of
from coformer_compiler.stages.lower import lower_members, require_builders
from coformer_compiler.stages.measure import measure
from coformer_compiler.stages.pack import pack_bundles
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
        made, teacher, data, config = _run_stages(store, config)
        report = report_from_artifacts(made, config, teacher, data, store.used)
        changed = not all(artifact.cached for artifact in store.used)
        if first_process():
            publish(made, report, config, out)
            store.prune()
    return Built(report, changed)


def plan(config: BuildConfig, out: Path, progress: Progress) -> dict[str, bool]:
    """What a build would do: `{stage: cached}` in order. Nothing is written.

    A stage behind a missing one is missing.
    """
    store = Store(out / "cache", progress, read_only=True)
    with suppress(NotCached):
        _run_stages(store, config)
    cached = {artifact.kind for artifact in store.used}
    return {stage: stage in cached for stage in STAGES}


class Searched(NamedTuple):
    """All that was evaluated, how much of the space fits, and whether latencies rest on less than measurements."""

    entries: list[Entry]
    preflight: Preflight
    estimated: bool


def search_only(config: BuildConfig, out: Path, progress: Progress) -> Searched:
    """The stages up to the policy of a searching strategy; writes policy.json and journal.jsonl into `out`."""
    with locked(out):
        store = Store(out / "cache", progress)
        imported = import_teacher(store, config.model)
        teacher = load_teacher(imported)
        use_fitting_threads(teacher.cost(with_head=True).flops)
        data = label_with_teacher(store, imported, teacher, load_build_data(config, imported, teacher))
        statistics = calibrate(store, imported, teacher, data, config.policy.importance)
        policy = decompose_teacher(store, (imported, statistics), teacher, data, config)
        write_whole(out / "policy.json", policy_json(policy_of(policy)))
        write_whole(out / JOURNAL, (policy.path / JOURNAL).read_text(encoding="utf-8"))
    estimated = LatencyModel(teacher.spec, config.devices, network_of(config)).estimated
    return Searched(journal_of(policy), preflight_of(policy), estimated)


def _run_stages(store: Store, config: BuildConfig) -> tuple[Artifacts, Transformer, DataSet, BuildConfig]:
    require_builders(config.devices)
    imported = import_teacher(store, config.model)
    teacher = load_teacher(imported)
    use_fitting_threads(teacher.cost(with_head=True).flops)
    check_profiles(teacher.spec, config.profiles)
    require_feasible(teacher.spec, config)
    data = label_with_teacher(store, imported, teacher, load_build_data(config, imported, teacher))
    statistics = calibrate(store, imported, teacher, data, config.policy.importance)
    policy = decompose_teacher(store, (imported, statistics), teacher, data, config)
    chosen = policy_of(policy)
    config = config.with_members([member.device for member in chosen.members])
    check_room(teacher.spec, chosen, config, shortcuts=policy_options(config.policy).shortcuts)
    transplanted = transplant_members(store, (imported, statistics, policy), teacher, chosen, data, config.policy)
    boosted = boost_members(store, (imported, transplanted), teacher, data, config.booster)
    accuracy = evaluate(store, (imported, transplanted, boosted), teacher, data)
    graphs = lower_members(store, boosted, config, data)
    bundles = pack_bundles(store, (graphs, accuracy), teacher.spec, chosen, config, data)
    latency = measure(store, (imported, bundles), teacher, config)
    made = Artifacts(imported, statistics, policy, transplanted, boosted, accuracy, graphs, bundles, latency)
    return made, teacher, data, config


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
