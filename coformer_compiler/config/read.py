"""A configuration file, or the command line alone, to a checked `BuildConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from coformer_compiler.booster.options import BoosterOptions
from coformer_compiler.config.bandwidths import checked_bandwidths
from coformer_compiler.config.devices import read_devices
from coformer_compiler.config.overrides import Overrides, merged_content, replaced_strategy
from coformer_compiler.config.paths import absolute, absolute_source
from coformer_compiler.config.sections import (
    ConfigSection,
    DataSection,
    ModelSection,
    NetworkSection,
    PolicySection,
    ProfilesSection,
    SearchSection,
    config_error,
)
from coformer_compiler.decomposer.picks import check_pick
from coformer_compiler.decomposer.strategies import SEARCHES, STRATEGIES
from coformer_compiler.device import Device
from coformer_compiler.frontends import ModelSource
from coformer_runtime.errors import CoformerError
from coformer_targets.nearest import suggestion
from coformer_targets.toml import read_toml


@dataclass(frozen=True)
class BuildConfig:
    """A checked configuration with targets loaded and paths absolute.

    `replaced` is the strategy of the file that gave way to the policy's, see `Overrides.searching`.
    """

    title: str
    seed: int
    model: ModelSource
    data: DataSection
    policy: PolicySection
    search: SearchSection
    network: NetworkSection
    devices: tuple[Device, ...]
    booster: BoosterOptions
    profiles: ProfilesSection
    replaced: str | None = None

    def with_members(self, names: Sequence[str]) -> BuildConfig:
        """Without the devices that a policy leaves out."""
        return replace(self, devices=tuple(device for device in self.devices if device.name in names))

    @property
    def central(self) -> int:
        """Index of the device that aggregates."""
        return next(n for n, device in enumerate(self.devices) if device.central)

    @property
    def aggregating(self) -> tuple[int, ...]:
        """Indices of the devices that aggregate or can."""
        return tuple(n for n, device in enumerate(self.devices) if device.central or device.standby)


def read_config(path: Path | None, overrides: Overrides) -> BuildConfig:
    """The configuration of a file, of the command line, or of both.

    Raises:
        CoformerError: for anything missing, unknown, or of a wrong type; names the key.
    """
    where = "command line" if path is None else f"config {path.name}"
    content = {} if path is None else read_toml(path, f"config {path.name}")
    folder = Path.cwd() if path is None else path.resolve().parent
    _refuse_values_for_tables(content, where)
    merged = merged_content(content, overrides)
    for section, what, flag in (
        ("model", "model", "--model LIBRARY:NAME"),
        ("data", "data set", "--data KIND:PATH"),
        ("devices", "device", "--target NAME or --target-file FILE"),
    ):
        if not merged.get(section):
            table = "[[devices]]" if section == "devices" else f"[{section}]"
            raise CoformerError(f"names no {what}", where, f"give {flag}, or {table} in a configuration file")
    try:
        checked = ConfigSection.model_validate(merged)
    except ValidationError as error:
        raise config_error(error, where, merged) from error
    return replace(_build_config(checked, folder, where), replaced=replaced_strategy(content, overrides))


def _refuse_values_for_tables(content: dict[str, Any], where: str) -> None:
    for key in ("model", "data", "policy", "search", "network", "profiles", "booster"):
        if key in content and not isinstance(content[key], dict):
            raise CoformerError(f"{key} = {content[key]!r} is no table", where, f"write [{key}], its keys below it")
    devices = content.get("devices", [])
    if not isinstance(devices, list) or not all(isinstance(device, dict) for device in devices):
        raise CoformerError("'devices' is no list of tables", where, "write [[devices]] once per device")


def _build_config(section: ConfigSection, folder: Path, where: str) -> BuildConfig:
    model, policy = section.model, section.policy
    known = (*STRATEGIES, *SEARCHES, "file")
    if policy.strategy not in known:
        raise CoformerError(
            f"unknown strategy '{policy.strategy}'",
            f"{where}, policy.strategy",
            suggestion(policy.strategy, known, noun="strategy"),
        )
    if (policy.strategy == "file") != (policy.file is not None):
        raise CoformerError(
            "strategy 'file' and policy.file go together", f"{where}, policy.file", "set both or neither"
        )
    for name in ("embed", "layers"):
        if getattr(policy, name) is not None and policy.strategy not in STRATEGIES:
            raise CoformerError(
                f"the strategy '{policy.strategy}' decides by itself how wide and how deep members are",
                f"{where}, policy.{name}",
                f"leave it away, or choose one of {', '.join(STRATEGIES)}",
            )
    model = _with_folder(model, folder, where)
    if model.weights == "file" and model.checkpoint is None:
        raise CoformerError(
            "no checkpoint",
            f"{where}, model.checkpoint",
            "name its file (--checkpoint FILE), or set model.weights (--weights) to 'hub' or 'random'",
        )
    if model.weights != "file" and model.checkpoint is not None and not model.name.startswith("hf:"):
        raise CoformerError(
            f"the weights are to be '{model.weights}', and a checkpoint is named",
            f"{where}, model.checkpoint",
            "leave the checkpoint away, or set model.weights to 'file'",
        )
    check_pick(section.search.pick, f"{where}, search.pick")
    checkpoint = None if model.checkpoint is None else absolute(model.checkpoint, folder)
    source = ModelSource(
        model.name,
        model.weights,
        checkpoint,
        tuple((key, tuple(each) if isinstance(each, list) else each) for key, each in sorted(model.options.items())),
        None if model.mean is None else tuple(model.mean),
        None if model.std is None else tuple(model.std),
        section.seed,
    )
    data = section.data.model_copy(update={"source": absolute_source(section.data.source, folder)})
    policy = policy.model_copy(update={"file": None if policy.file is None else absolute(policy.file, folder)})
    title = section.title or f"{model.name.partition(':')[2]} on {len(section.devices)} devices"
    return BuildConfig(
        title,
        section.seed,
        source,
        data,
        policy,
        section.search.model_copy(
            update={"journal": None if section.search.journal is None else absolute(section.search.journal, folder)}
        ),
        section.network.model_copy(
            update={"bandwidths": checked_bandwidths(section.network.bandwidths, policy.strategy, where)}
        ),
        read_devices(section.devices, section.precision, folder, where),
        _booster(section.booster, section.seed, where),
        _profiles(section.profiles, where),
    )


def _profiles(section: ProfilesSection, where: str) -> ProfilesSection:
    for key, numbers in (("lengths", section.lengths or [1]), ("batches", section.batches)):
        if any(before >= after for before, after in pairwise(numbers)):
            raise CoformerError(
                f"profiles.{key} = {numbers} is not ascending", where, "write each number once, the smallest first"
            )
    if section.batches[0] != 1:
        raise CoformerError(
            f"profiles.batches = {section.batches} lacks 1", where, "add it: a single request is a batch of one"
        )
    return section


def _with_folder(model: ModelSection, folder: Path, where: str) -> ModelSection:
    """`hf:FOLDER` as a checkpoint, named after its folder."""
    library, _, location = model.name.partition(":")
    if library != "hf":
        return model
    if model.checkpoint is not None:
        raise CoformerError(
            "an hf model is its folder, and a checkpoint is named beside it",
            f"{where}, model.checkpoint",
            "leave the checkpoint away, and write model.name = 'hf:FOLDER'",
        )
    path = absolute(Path(location), folder)
    return model.model_copy(update={"name": f"hf:{path.resolve().name}", "checkpoint": path})


def _booster(content: dict[str, Any], seed: int, where: str) -> BoosterOptions:
    known = [field.name for field in fields(BoosterOptions)]
    for key in content:
        if key not in known:
            raise CoformerError(f"unknown key 'booster.{key}'", where, suggestion(key, known, noun="key"))
    try:
        return TypeAdapter(BoosterOptions).validate_python({"seed": seed, **content})
    except ValidationError as error:
        raise config_error(error, where, {}, "booster") from error
    except CoformerError as error:
        raise CoformerError(error.what, f"{where}, booster", error.mend) from error
