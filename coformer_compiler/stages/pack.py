"""Stage "pack": one bundle directory per device, with a manifest that names every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coformer_compiler.artifact import Artifact, Store, file_digest
from coformer_compiler.config import BuildConfig
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.data.tokenizer import TOKENIZER, Tokenizer
from coformer_compiler.decomposer.policy import Policy
from coformer_compiler.model.aggregator import subset_name, subsets_of
from coformer_compiler.model.spec import StemSpec, TokenStemSpec, TransformerSpec
from coformer_compiler.model.transformer import FEATURES_NAME, LOGITS_NAME
from coformer_compiler.stages.decoders import generation_of
from coformer_compiler.stages.evaluate import SystemAccuracy, accuracies_of
from coformer_compiler.stages.lower import (
    ENGINE,
    GOLDEN_ANSWER,
    GOLDEN_INPUT,
    GOLDEN_OUTPUT,
    MEMBER,
    RECIPE,
    aggregator_file,
    copy_graphs,
)
from coformer_compiler.stages.lowered_accuracy import lowered_accuracy_of
from coformer_runtime.manifest import (
    MANIFEST_NAME,
    REBUILD,
    AggregatorSpec,
    AnswerSpec,
    EngineSpec,
    FileSpec,
    GenerationSpec,
    GoldenSpec,
    Manifest,
    TensorSpec,
    manifest_json,
)
from coformer_runtime.manifest_fields import Fields
from coformer_runtime.manifest_profiles import ProfilesSpec, profiles_from_fields


def pack_bundles(
    store: Store,
    parents: tuple[Artifact, Artifact],
    teacher: TransformerSpec,
    policy: Policy,
    config: BuildConfig,
    data: DataSet,
) -> Artifact:
    """The bundles as `DEVICE/manifest.json` and the files that it names; `parents` are those of lower and evaluate."""
    graphs, accuracy = parents
    generation = _generation(teacher, data)
    options = {
        "policy": policy.sha256,
        "labels": data.class_names,
        "tokenizer": data.tokenizer,
        "devices": [[device.name, device.target.name] for device in config.devices],
        "central": config.central,
        "aggregating": config.aggregating,
    }

    def make(folder: Path, _work: Path) -> None:
        build = build_digest(graphs, policy)
        expected = lowered_accuracy_of(graphs) or accuracies_of(accuracy).calibrated
        for n, device in enumerate(config.devices):
            bundle = folder / device.name
            copy_graphs(graphs, device, bundle)
            if data.tokenizer is not None and n in config.aggregating:
                (bundle / TOKENIZER).write_text(data.tokenizer, encoding="utf-8")
            facts = json.loads((graphs.path / device.name / ENGINE).read_text(encoding="utf-8"))
            manifest = _manifest(bundle, n, config, data, policy, build, facts, expected)._replace(
                generation=generation, vocabulary=_vocabulary(teacher.stem)
            )
            (bundle / MANIFEST_NAME).write_text(manifest_json(manifest), encoding="utf-8")

    return store.stage("pack", parents, options, make)


def build_digest(graphs: Artifact, policy: Policy) -> str:
    """The digest that all members of one build share: their graphs and their policy."""
    return hashlib.sha256(f"{graphs.sha256} {policy.sha256}".encode()).hexdigest()


def _share(score: float) -> float:
    """A score as a manifest holds it, 0 to 1: a correlation below zero is worth nothing."""
    return min(max(score, 0.0), 1.0)


def _generation(teacher: TransformerSpec, data: DataSet) -> GenerationSpec | None:
    """How the members take tokens, None where they do not."""
    if data.words is None or data.tokenizer is None:
        return None
    return generation_of(teacher, Tokenizer(data.tokenizer, 1, "the data's tokenizer").end)


def _vocabulary(stem: StemSpec) -> tuple[int, ...]:
    """How many numbers each row of the input tells apart; none of pixels."""
    if not isinstance(stem, TokenStemSpec):
        return ()
    return (stem.vocabulary,) if stem.types == 1 else (stem.vocabulary, stem.types)


def _profiles(facts: Mapping[str, Any], device: str) -> ProfilesSpec | None:
    """What the lowering has told of the member's other shapes."""
    if "profiles" not in facts:
        return None
    return profiles_from_fields(Fields(facts["profiles"], f"graphs of '{device}'", "profiles", REBUILD))


def _manifest(
    bundle: Path,
    n: int,
    config: BuildConfig,
    data: DataSet,
    policy: Policy,
    build: str,
    facts: Mapping[str, Any],
    accuracy: SystemAccuracy,
) -> Manifest:
    device = config.devices[n]
    inputs, features = (np.load(bundle / name, mmap_mode="r") for name in (GOLDEN_INPUT, GOLDEN_OUTPUT))
    aggregates = n in config.aggregating
    aggregators = [
        AggregatorSpec(tuple(subset), aggregator_file(subset), _share(accuracy.subsets[subset_name(subset)]))
        for subset in (subsets_of(len(config.devices)) if aggregates else [])
    ]
    recipe = RECIPE if (bundle / RECIPE).exists() else None
    return Manifest(
        build=build,
        policy=policy.sha256,
        device=device.name,
        target=device.target.name,
        member=n,
        members=tuple(each.name for each in config.devices),
        central=config.devices[config.central].name,
        engine=EngineSpec(facts["kind"], facts["version"], MEMBER, facts["precision"], recipe),
        input=TensorSpec(facts["input"], inputs.dtype.name, (1, *inputs.shape[1:])),
        output=TensorSpec(FEATURES_NAME, "float32", (1, *features.shape[1:])),
        answer=AnswerSpec(LOGITS_NAME, "float32", (1, data.outputs), tuple(data.class_names)),
        golden=GoldenSpec(GOLDEN_INPUT, GOLDEN_OUTPUT, facts["tolerance"], GOLDEN_ANSWER if aggregates else None),
        aggregators=tuple(sorted(aggregators)),
        wire_bytes=4 * int(np.prod(features.shape[1:])),
        files=tuple(
            FileSpec(path.relative_to(bundle).as_posix(), file_digest(path), path.stat().st_size)
            for path in sorted(bundle.rglob("*"))
            if path.is_file()
        ),
        standby=tuple(each.name for each in config.devices if each.standby),
        profiles=_profiles(facts, device.name),
    )
