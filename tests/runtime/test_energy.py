"""Energy of an inference on trees that look like a Jetson's and a PC's /sys."""

import itertools
from pathlib import Path
from typing import Dict, List

import pytest

from coformer_runtime.cli import main
from coformer_runtime.energy import WARM_UP, measure_energy
from coformer_runtime.errors import CheckFailed
from coformer_runtime.power import Source, power_source, readings


def rails(root: Path, **watts: float) -> None:
    """A board whose INA3221 shows these watts at 5 V."""
    folder = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    folder.mkdir(parents=True, exist_ok=True)
    for channel, (name, power) in enumerate(watts.items(), 1):
        (folder / "in{}_label".format(channel)).write_text(name + "\n")
        (folder / "in{}_input".format(channel)).write_text("5000\n")
        (folder / "curr{}_input".format(channel)).write_text("{:.0f}\n".format(power * 200))


def domain(root: Path, number: str, name: str, microjoules: int, wraps_at: int = 10_000_000) -> Path:
    folder = root / "sys/class/powercap/intel-rapl:{}".format(number)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"name": name, "energy_uj": str(microjoules), "max_energy_range_uj": str(wraps_at)}
    for key, text in texts.items():
        (folder / key).write_text(text + "\n")
    return folder / "energy_uj"


def source(root: Path) -> Source:
    found = power_source(str(root))
    assert found is not None
    return found


def test_a_board_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_dirs: List[str]) -> None:
    assert readings(str(tmp_path)) == {} and power_source(str(tmp_path)) is None
    with pytest.raises(CheckFailed, match="this board tells nothing of its power"):
        measure_energy(lambda: None, 0.1, str(tmp_path))
    monkeypatch.setattr("coformer_runtime.power.INA3221", "/nowhere/*")
    monkeypatch.setattr("coformer_runtime.power.RAPL", "/nowhere/*")
    assert main(["energy", cluster_dirs[1], "--seconds", "0.1"]) == 1


def test_the_rail_that_feeds_all_others(tmp_path: Path) -> None:
    rails(tmp_path, VDD_CPU_GPU_CV=1.0, VDD_IN=6.0, VDD_SOC=1.5)
    told = source(tmp_path)
    assert (told.name, told.counts, told.read()) == ("INA3221 VDD_IN", False, 6.0)
    rails(tmp_path, VDD_CPU_GPU_CV=1.0, VDD_IN=7.0, VDD_SOC=1.5)
    assert told.read() == 7.0


def test_rails_are_added_where_none_feeds_all(tmp_path: Path) -> None:
    rails(tmp_path, GPU=1.0, CPU=2.0, SOC=0.5)
    told = source(tmp_path)
    assert (told.name, told.read()) == ("INA3221 CPU+GPU+SOC", 3.5)


def test_packages_and_memory_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    package, memory = domain(tmp_path, "0", "package-0", 9_000_000), domain(tmp_path, "0:1", "dram", 100)
    domain(tmp_path, "0:0", "core", 5)
    told = source(tmp_path)
    assert (told.name, told.counts, told.read()) == ("RAPL package-0+dram", True, 0.0)
    package.write_text("500000\n")  # it wrapped around at 10 J
    memory.write_text("250100\n")
    assert told.read() == 1.75
    package.write_text("")  # a reading that fails counts nothing
    assert told.read() == 1.75
    domain(tmp_path, "1", "psys", 7)
    assert source(tmp_path).name == "RAPL psys"


@pytest.mark.parametrize("counts", [False, True])
def test_idle_power_is_subtracted(counts: bool) -> None:
    """5 W idle and 8 W from the first inference on; each takes 10 ms of a clock that only inferences move."""
    state: Dict[str, float] = {"now": 0.0, "watts": 5.0, "joules": 0.0}
    ticks = itertools.count()

    def pass_by(seconds: float) -> None:
        state["now"] += seconds
        state["joules"] += seconds * state["watts"]

    def clock() -> float:
        if next(ticks) < 40:  # the idle time is the real one: let the clock go on with it
            pass_by(1e-6)
        return state["now"]

    def run() -> None:
        state["watts"] = 8.0
        pass_by(0.01)

    told = Source("test", counts, lambda: state["joules" if counts else "watts"])
    energy = measure_energy(run, 0.3, clock=clock, source=told)
    assert energy.idle_w == pytest.approx(5.0)
    assert energy.running_w == pytest.approx(8.0, rel=1e-3)
    assert energy.runs >= 30 > WARM_UP and energy.ms_each == pytest.approx(10.0, rel=1e-3)
    assert energy.mj_each == pytest.approx(30.0, rel=1e-2)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_dirs: List[str], capsys: pytest.CaptureFixture
) -> None:
    rails(tmp_path, VDD_IN=6.0)
    monkeypatch.setattr("coformer_runtime.power.INA3221", str(tmp_path) + "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
    assert main(["energy", cluster_dirs[1], "--seconds", "0.05"]) == 0
    assert capsys.readouterr().out.startswith("hall, INA3221 VDD_IN: idle 6.00 W, running 6.00 W; ")
    assert main(["energy", cluster_dirs[1], "--seconds", "0.05", "--json"]) == 0
    assert '"mj_each": 0.0' in capsys.readouterr().out
    assert main(["energy", cluster_dirs[1], "--seconds", "0"]) == 2
