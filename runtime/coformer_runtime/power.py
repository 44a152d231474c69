"""What a board tells of its power: rails of an INA3221 (Jetsons), energy counters of RAPL (PCs)."""

import glob
import os
from typing import Dict

INA3221 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
RAPL = "/sys/class/powercap/intel-rapl:*"


def readings(root: str = "") -> Dict[str, Dict[str, float]]:
    """Return "watts" by rail and "joules" by domain, as far as they can be read; RAPL wraps around by itself.

    Args:
        root: put before the paths of /sys.

    Linux' hwmon interface: in*_input in mV, curr*_input in mA. Powercap: energy_uj,
    which only root may read by default.
    """
    found: Dict[str, Dict[str, float]] = {}
    for folder in sorted(glob.glob(root + INA3221)):
        for label in sorted(glob.glob(os.path.join(folder, "in*_label"))):
            channel = os.path.basename(label)[len("in") : -len("_label")]
            rail = _text(label)
            millivolts = _text(os.path.join(folder, "in{}_input".format(channel)))
            milliamperes = _text(os.path.join(folder, "curr{}_input".format(channel)))
            if rail and millivolts.isdigit() and milliamperes.isdigit():
                found.setdefault("watts", {})[rail] = int(millivolts) * int(milliamperes) / 1e6
    for folder in sorted(glob.glob(root + RAPL)):
        energy_uj = _text(os.path.join(folder, "energy_uj"))
        if energy_uj.isdigit():
            domain = "{} ({})".format(_text(os.path.join(folder, "name")), os.path.basename(folder))
            found.setdefault("joules", {})[domain] = int(energy_uj) / 1e6
    return found


def _text(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return ""
