"""Stage "boost": distillation of the transplanted members."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coformer_compiler.artifact import Artifact, Store
from coformer_compiler.booster.boost import boost
from coformer_compiler.booster.history import History, history_from_json
from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.data.dataset import DataSet
from coformer_compiler.model.system import load_system, save_system
from coformer_compiler.model.transformer import Transformer

HISTORY = "history.json"


def boost_members(
    store: Store, parents: Sequence[Artifact], teacher: Transformer, data: DataSet, options: BoosterOptions
) -> Artifact:
    """Calibrated members and aggregator; `parents` are the artifacts of import and transplant."""

    def make(folder: Path, work: Path) -> None:
        members = load_system(parents[1].path).members
        result = boost(teacher, members, data.train, data.validation, options, work, store.progress)
        save_system(folder, result.members, result.aggregator)
        (folder / HISTORY).write_text(json.dumps(result.history.to_json(), sort_keys=True), encoding="utf-8")

    deciding = {"options": asdict(options), "data": data.sha256}
    return store.stage("boost", parents, deciding, make, collective=True)


def history_of(artifact: Artifact) -> History:
    """What happened in the booster."""
    return history_from_json(json.loads((artifact.path / HISTORY).read_text(encoding="utf-8")))
