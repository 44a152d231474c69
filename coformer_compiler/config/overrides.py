"""What the command line says over, or in place of, a configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coformer_compiler.config.paths import absolute, absolute_source
from coformer_compiler.config.sections import PolicySection
from coformer_compiler.decomposer.strategies import STRATEGIES

DEFAULT_SEARCH = "debo"
FIXED = (*STRATEGIES, "file")
"""Strategies that propose one policy."""


@dataclass(frozen=True)
class Overrides:
    """What the command line says over, or in place of, a file; of `targets`, texts are names and paths are files.

    With `searching`, a strategy of the file that evaluates nothing gives way to `DEFAULT_SEARCH`.
    """

    model: str | None = None
    checkpoint: Path | None = None
    weights: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    data: str | None = None
    targets: tuple[str | Path, ...] = ()
    precision: str | None = None
    strategy: str | None = None
    seed: int | None = None
    steps: int | None = None
    pick: str | None = None
    journal: Path | None = None
    bandwidths: tuple[float, ...] = ()
    searching: bool = False


def merged_content(content: dict[str, Any], given: Overrides) -> dict[str, Any]:
    """The content of a configuration file, with the command line's words in place of its own."""
    merged = {**content}
    model, data, policy = (dict(merged.get(key, {})) for key in ("model", "data", "policy"))
    if given.model is not None:
        library, _, place = given.model.partition(":")
        model = {"name": f"hf:{absolute(Path(place), Path.cwd())}" if library == "hf" else given.model}
    if given.checkpoint is not None:
        model |= {"checkpoint": str(given.checkpoint.expanduser().resolve()), "weights": "file"}
    if given.weights is not None:
        model["weights"] = given.weights
        if given.weights != "file" and given.checkpoint is None:
            model.pop("checkpoint", None)
    if given.options:
        model["options"] = {**model.get("options", {}), **{key: scalar(text) for key, text in given.options}}
    if given.data is not None:
        data["source"] = absolute_source(given.data, Path.cwd())
    if given.strategy is not None:
        policy["strategy"] = given.strategy
    elif replaced_strategy(content, given) is not None:
        policy["strategy"] = DEFAULT_SEARCH
        policy.pop("file", None)
    search = dict(merged.get("search", {}))
    if given.pick is not None:
        search["pick"] = given.pick
    if given.journal is not None:
        search["journal"] = str(given.journal.expanduser().resolve())
    if search:
        merged["search"] = search
    if given.bandwidths:
        merged["network"] = {**merged.get("network", {}), "bandwidths": list(given.bandwidths)}
    if given.targets:
        merged["devices"] = _devices_of_targets(given.targets)
    if given.precision is not None:
        merged["precision"] = given.precision
        merged["devices"] = [
            {key: value for key, value in device.items() if key != "precision"} for device in merged.get("devices", [])
        ]
    if given.seed is not None:
        merged["seed"] = given.seed
    if given.steps is not None:
        merged["booster"] = {**merged.get("booster", {}), "steps": given.steps, "joint_steps": given.steps}
    for key, value in (("model", model), ("data", data), ("policy", policy)):
        if value:
            merged[key] = value
    return merged


def replaced_strategy(content: dict[str, Any], given: Overrides) -> str | None:
    """The strategy of a configuration file, or the default one, that gives way to a search; None where none does."""
    strategy = content.get("policy", {}).get("strategy", PolicySection.model_fields["strategy"].default)
    return strategy if given.searching and given.strategy is None and strategy in FIXED else None


def _devices_of_targets(targets: Sequence[str | Path]) -> list[dict[str, Any]]:
    names = [target.stem if isinstance(target, Path) else target.replace("@", "-") for target in targets]
    devices = []
    for i, (name, target) in enumerate(zip(names, targets, strict=True)):
        number = f"-{names[: i + 1].count(name)}" if names.count(name) > 1 else ""
        key = "target_file" if isinstance(target, Path) else "target"
        place = str(target.expanduser().resolve()) if isinstance(target, Path) else target
        devices.append({"name": name + number, key: place})
    return devices


def scalar(text: str) -> bool | int | float | str:
    """The value that a word on the command line stands for."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
