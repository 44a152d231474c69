"""What a board tells of its power: rails of an INA3221 (Jetsons), energy counters of RAPL (PCs)."""

import glob
import os
from typing import Callable, Dict, List, NamedTuple, Optional

INA3221 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
RAPL = "/sys/class/powercap/intel-rapl:*"
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")  # the rail that feeds all others, where a Jetson has it


class Source(NamedTuple):
    """One figure of the whole board's power.

    Attributes:
        name: what tells it, such as "INA3221 VDD_IN".
        counts: whether it is energy that only grows, in joules, rather than power, in watts.
        read: returns it now.
    """

    name: str
    counts: bool
    read: Callable[[], float]


def readings(root: str = "") -> Dict[str, Dict[str, float]]:
    """Return "watts" by rail and "joules" by domain, as far as they can be read; RAPL wraps around by itself.

    Args:
        root: put before the paths of /sys.

    Linux' hwmon interface: in*_input in mV, curr*_input in mA. Powercap: energy_uj,
    which only root may read by default.
    """
    found: Dict[str, Dict[str, float]] = {}
    watts, joules = _watts(root), {path: _microjoules(path) for path in _domains(root)}
    if watts:
        found["watts"] = watts
    told = {"{} ({})".format(_name(path), os.path.basename(path)): value for path, value in joules.items()}
    if any(value is not None for value in told.values()):
        found["joules"] = {name: value / 1e6 for name, value in told.items() if value is not None}
    return found


def power_source(root: str = "") -> Optional[Source]:
    """Return what tells the whole board's power best, None where nothing does.

    Jetsons: the rail that feeds all others, else the sum of all rails. PCs: the platform's counter, else those of all
    packages and of their memory; cores and graphics are parts of a package.
    """
    rails = _watts(root)
    if rails:
        counted = [name for name in WHOLE_BOARD if name in rails][:1] or sorted(rails)
        return Source(
            "INA3221 " + "+".join(counted), False, lambda: sum(_watts(root).get(name, 0.0) for name in counted)
        )
    names = {path: _name(path) for path in _domains(root) if _microjoules(path) is not None}
    platform = [path for path, name in names.items() if name == "psys"]
    parts = [path for path, name in names.items() if name.startswith("package") or name == "dram"]
    chosen = sorted(platform or parts)
    if not chosen:
        return None
    counters = [_Counter(path) for path in chosen]
    return Source(
        "RAPL " + "+".join(names[path] for path in chosen), True, lambda: sum(each.joules() for each in counters)
    )


class _Counter:
    """An energy counter that goes on where RAPL's own wraps around, if it is read often enough (once a minute)."""

    def __init__(self, path: str) -> None:
        self._path, self._range = path, int(_text(os.path.join(path, "max_energy_range_uj")) or 0)
        self._last, self._total = _microjoules(path) or 0, 0

    def joules(self) -> float:
        now = _microjoules(self._path)
        if now is not None:
            self._total += now - self._last + (self._range if now < self._last else 0)
            self._last = now
        return self._total / 1e6


def _watts(root: str) -> Dict[str, float]:
    found: Dict[str, float] = {}
    for folder in sorted(glob.glob(root + INA3221)):
        for label in sorted(glob.glob(os.path.join(folder, "in*_label"))):
            channel = os.path.basename(label)[len("in") : -len("_label")]
            rail = _text(label)
            millivolts = _text(os.path.join(folder, "in{}_input".format(channel)))
            milliamperes = _text(os.path.join(folder, "curr{}_input".format(channel)))
            if rail and millivolts.isdigit() and milliamperes.isdigit():
                found[rail] = int(millivolts) * int(milliamperes) / 1e6
    return found


def _domains(root: str) -> List[str]:
    return sorted(glob.glob(root + RAPL))


def _name(path: str) -> str:
    return _text(os.path.join(path, "name"))


def _microjoules(path: str) -> Optional[int]:
    text = _text(os.path.join(path, "energy_uj"))
    return int(text) if text.isdigit() else None


def _text(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return ""
