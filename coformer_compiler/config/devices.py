"""`[[devices]]` to devices: targets loaded, precisions chosen, predictors held against their boards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coformer_compiler.config.paths import absolute
from coformer_compiler.config.sections import DeviceSection
from coformer_compiler.device import Device
from coformer_compiler.profiling.predictor import Predictor, load_predictor, mismatch
from coformer_runtime.errors import CoformerError
from coformer_runtime.manifest_rules import DEVICE_NAME
from coformer_targets import Target, load_target, load_target_file, with_precision


def read_devices(
    sections: Sequence[DeviceSection], precision: str | None, folder: Path, where: str
) -> tuple[Device, ...]:
    """The devices, one of them central.

    Raises:
        CoformerError: for a name that is listed twice or cannot be one, and whatever targets and predictors refuse.
    """
    names = [section.name for section in sections]
    for name in names:
        if not DEVICE_NAME.fullmatch(name):
            raise CoformerError(
                f"'{name}' cannot be a device's name",
                f"{where}, devices",
                "use up to 63 letters, digits, '_', '.' and '-', a letter or digit first",
            )
        if names.count(name) > 1:
            raise CoformerError(
                f"device '{name}' is listed {names.count(name)} times",
                f"{where}, devices",
                "give every device a name of its own",
            )
    chosen = [n for n, section in enumerate(sections) if section.central]
    if len(chosen) > 1:
        raise CoformerError(
            f"{len(chosen)} devices are central", f"{where}, devices", "set central = true for one of them"
        )
    devices = []
    for section in sections:
        if (section.target is None) == (section.target_file is None):
            raise CoformerError(
                f"device '{section.name}' needs one of target and target_file",
                f"{where}, devices",
                "set target to a name of `coformerc targets`",
            )
        target = _target(section, precision, folder, where)
        devices.append(
            Device(
                section.name,
                target,
                section.gflops or target.gflops,
                section.memory_mb or float(target.memory_mb),
                section.max_gflop,
                predictor=_predictor(section, target, folder, where),
                deadline_ms=section.deadline_ms,
                standby=section.standby,
            )
        )
    # The aggregation waits for the slowest anyway; the fastest board has the most time to spare for it.
    free = [n for n, device in enumerate(devices) if not device.standby] or range(len(devices))
    central = chosen[0] if chosen else max(free, key=lambda n: (devices[n].gflops, -n))
    if devices[central].standby:
        raise CoformerError(
            f"'{devices[central].name}' is the central device and cannot stand by for itself",
            f"{where}, device '{devices[central].name}', standby",
            "set standby = true for another device",
        )
    return tuple(replace(device, central=n == central) for n, device in enumerate(devices))


def _predictor(section: DeviceSection, target: Target, folder: Path, where: str) -> Predictor | None:
    if section.predictor is None:
        return None
    predictor = load_predictor(absolute(section.predictor, folder))
    other = mismatch(predictor, target)
    if other is not None:
        raise CoformerError(
            f"the predictor '{section.predictor}' does not fit: {other}",
            f"{where}, device '{section.name}'",
            "measure a pack for this target, on the device, and name the predictor that is fitted to it",
        )
    return predictor


def _target(section: DeviceSection, precision: str | None, folder: Path, where: str) -> Target:
    """The device's target, computing in its precision."""
    target = (
        load_target(section.target)
        if section.target is not None
        else load_target_file(absolute(Path(str(section.target_file)), folder))
    )
    try:
        return with_precision(target, section.precision or precision or target.precision)
    except CoformerError as error:
        raise CoformerError(
            error.what, f"{where}, device '{section.name}', {error.where}", f"precision: {error.mend}"
        ) from error
