"""What a machine tells about itself while it is measured: its name, its power mode, its temperature."""

import glob
import re
from typing import Optional

from .doctor import Machine, this_machine

_ZONES = "/sys/class/thermal/thermal_zone*/temp"
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def machine_name(machine: Optional[Machine] = None) -> str:
    """Return the board's model, or else the processor's, with the number of its cores."""
    at = this_machine() if machine is None else machine
    model = at.text("/proc/device-tree/model").strip("\0\n ")
    if model:
        return model
    told = at.text("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", told, re.MULTILINE))
    words = " ".join(name.group(1).split()) if name else at.arch
    return "{}, {} cores".format(words, cores) if cores else words


def power_mode(machine: Optional[Machine] = None) -> str:
    """Return a Jetson's power mode, elsewhere the governor of the processor's clock; "" where neither is told."""
    at = this_machine() if machine is None else machine
    if at.text("/etc/nv_tegra_release"):
        code, said = at.run(["nvpmodel", "-q"])
        found = re.search(r"NV Power Mode: (\S+)", said)
        if code == 0 and found:
            return found.group(1)
    return at.text(_GOVERNOR).strip()


def temperature_c(machine: Optional[Machine] = None) -> Optional[float]:
    """Return what the hottest sensor shows, in °C; None where there is none that answers."""
    at = this_machine() if machine is None else machine
    shown = []
    for path in glob.glob(at.root + _ZONES):
        try:
            with open(path) as stream:
                shown.append(int(stream.read()) / 1e3)
        except (OSError, ValueError):  # sensors that are switched off answer with an error
            continue
    return max(shown) if shown else None
