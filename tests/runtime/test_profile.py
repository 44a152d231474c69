"""`coformer-node profile`: what it measures, how it goes on, and what it refuses to mix."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.profile import ATTEMPTS, RUNS, Reference, measure_point, profile_pack, timing_of
from coformer_runtime.profile_engines import opener_for
from coformer_runtime.profile_pack import open_pack
from coformer_runtime.profile_points import read_points, write_csv
from coformer_runtime.vitals import machine_name, power_mode, temperature_c
from tests.runtime.boards import NANO, ORIN, Board, environment, make_site, node
from tests.runtime.packs import make_pack
from tests.runtime.test_doctor import NANO_FILES, NANO_SAYS
from tests.runtime.test_doctor import board as machine_at


def seconds(durations: List[float]) -> Callable[[], float]:
    """A clock that is asked before and after each run; the durations come round again and again."""

    def readings() -> Iterator[float]:
        now = 0.0
        while True:
            for each in durations:
                yield now
                now += each
                yield now

    read = readings()
    return lambda: next(read)


def nothing() -> None:
    """A run that takes as long as the clock says."""


def test_median_spread_and_drift_are_those_of_the_runs() -> None:
    steady = timing_of(nothing, Reference(nothing, seconds([2e-3]), 2.0))
    assert steady.median_ms == pytest.approx(2.0) and steady.spread < 1e-9 and steady.stable
    assert steady.reference_ms == pytest.approx(2.0)


def test_a_run_is_measured_in_units_of_the_reference_around_it() -> None:
    """Blocks of one run, with the reference before, between and behind; the machine slows to half its speed."""
    slower = Reference(nothing, seconds([1e-3, 3e-3, 1e-3, 6e-3, 2e-3]), 1.0)
    found = timing_of(nothing, slower, runs=2, warm_up=0)
    assert found.reference_ms == pytest.approx(1.0)
    assert found.median_ms == pytest.approx((3 / 1 + 6 / 1.5) / 2)
    assert found.drift == pytest.approx((4 - 3) / 3.5) and not found.stable


def test_the_warm_up_does_not_count() -> None:
    clock = seconds([9.0, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    assert timing_of(nothing, Reference(nothing, clock, 1.0), runs=2, warm_up=1).median_ms == pytest.approx(1.0)


def test_short_graphs_run_a_few_times_between_two_runs_of_the_reference() -> None:
    ran: List[str] = []
    slow = Reference(lambda: ran.append("r"), seconds([1e-3]), 1.0)
    timing_of(lambda: ran.append("."), slow, runs=4, warm_up=1)
    assert "".join(ran) == ".r.r.r.r.r"
    ran.clear()
    durations = [1e-3, 9e-3, *[1e-3] * 5, 9e-3, *[1e-3] * 2, 9e-3]
    slow = Reference(lambda: ran.append("r"), seconds(durations), 1.0)
    timing_of(lambda: ran.append("."), slow, runs=7, warm_up=1)
    assert "".join(ran) == ".r.....r..r"


def test_a_point_is_repeated_while_the_reference_is_slow(tmp_path: Path) -> None:
    pack = open_pack(make_pack(tmp_path / "pack"))
    with opener_for(pack, 1, str(tmp_path)) as opener:
        slow = Reference(nothing, seconds([1.0]), best_ms=500.0)
        found = measure_point(pack, pack.points[0], opener, slow)
        assert (found.stable, found.attempts, found.reference_ms) == (False, ATTEMPTS, 1000.0)
        fast = Reference(nothing, seconds([1.0]), best_ms=math.inf)
        assert fast.best_ms == 1000.0
        found = measure_point(pack, pack.points[0], opener, fast)
        assert (found.stable, found.attempts, found.median_ms) == (True, 1, 1000.0)


def test_a_pack_becomes_a_csv_and_is_gone_on_with(tmp_path: Path) -> None:
    pack, csv = open_pack(make_pack(tmp_path / "pack", 4)), str(tmp_path / "points.csv")
    said: List[str] = []
    count, _ = profile_pack(pack, csv, 1, say=said.append)
    whole = read_points(csv)
    assert count == 4 and [point.graph for point in whole.points] == [point.graph for point in pack.points]
    assert all(point.runs == RUNS and point.median_ms > 0 for point in whole.points)
    assert whole.provenance.board == machine_name() and whole.provenance.spec == {"layers": 3}
    assert said[-1].startswith("4 of 4 points, ")

    lines = Path(csv).read_text().splitlines(keepends=True)
    Path(csv).write_text("".join(lines[:4]) + lines[4][:20])  # killed in the middle of the third line
    assert profile_pack(pack, csv, 1)[0] == 4
    again = read_points(csv)
    assert again.points[:2] == whole.points[:2] and len(again.points) == 4


def test_the_reference_is_timed_like_any_other_point(tmp_path: Path) -> None:
    """Its runs are runs of the engine, and nothing else: all three graphs are of one size."""
    pack, csv = open_pack(make_pack(tmp_path / "pack", 3)), str(tmp_path / "points.csv")
    profile_pack(pack, csv, 1, "cpu")
    found = read_points(csv).points
    assert min(point.reference_ms for point in found) < 5 * min(point.median_ms for point in found)


def test_points_that_were_not_stable_are_measured_again(tmp_path: Path) -> None:
    pack, csv = open_pack(make_pack(tmp_path / "pack", 3)), str(tmp_path / "points.csv")
    profile_pack(pack, csv, 1)
    found = read_points(csv)
    shaky = [point._replace(stable=point.graph != "graphs/00001.onnx", reference_ms=1.0) for point in found.points]
    write_csv(csv, found.provenance, [point._replace(median_ms=99.0) for point in shaky])
    profile_pack(pack, csv, 1, again=True)
    assert {point.graph: point.median_ms == 99.0 for point in read_points(csv).points} == {
        "graphs/00000.onnx": True,
        "graphs/00001.onnx": False,
        "graphs/00002.onnx": True,
    }


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("board", "NVIDIA Jetson Nano", r"the board was 'NVIDIA Jetson Nano', here it is '"),
        ("engine_version", "0.9", r"the engine's version was '0.9', here it is '"),
        ("threads", 4, r"the number of threads was '4', here it is '1'"),
        ("power_mode", "5W", r"the power mode was '5W', here it is '"),
        ("pack", "cd" * 32, r"the pack was 'cdcdcdcdcdcd...', here it is '"),
    ],
)
def test_a_csv_begun_on_something_else_is_refused(tmp_path: Path, key: str, value: object, told: str) -> None:
    pack, csv = open_pack(make_pack(tmp_path / "pack", 2)), str(tmp_path / "points.csv")
    profile_pack(pack, csv, 1)
    found = read_points(csv)
    write_csv(csv, found.provenance._replace(**{key: value}), found.points[:1])
    before = Path(csv).read_bytes()
    with pytest.raises(CoformerError, match=told + ".*; go on where it was begun, or measure into a new file"):
        profile_pack(pack, csv, 1)
    assert Path(csv).read_bytes() == before


def test_processor_time_is_for_one_thread_only(tmp_path: Path) -> None:
    pack = open_pack(make_pack(tmp_path / "pack"))
    with pytest.raises(CoformerError, match="processor time is the latency of one thread only"):
        profile_pack(pack, str(tmp_path / "points.csv"), 2, "cpu")


@pytest.mark.parametrize("board", [NANO, ORIN], ids=lambda board: board.tensorrt)
def test_tensorrt_plans_are_built_measured_and_thrown_away(tmp_path: Path, board: Board) -> None:
    pack, csv = make_pack(tmp_path / "pack", 2, board), tmp_path / "points.csv"
    done = node(make_site(tmp_path / "site", board), "profile", pack, "-o", str(csv))
    assert done.code == 0, done.err
    assert done.out.startswith("{}: 2 points, ".format(csv))
    found = read_points(str(csv))
    assert found.provenance.engine_version == board.tensorrt and board.gpu in found.provenance.board
    left = [path.name for path in (tmp_path / ".coformer-profile").rglob("*")]
    assert left and not any(name.endswith(".plan") or name.startswith("building") for name in left)
    other = node(make_site(tmp_path / "other", board._replace(gpu="another")), "profile", pack, "-o", str(csv))
    assert other.code == 2 and "it was begun on something else: the board was '" in other.err


def test_a_pack_for_another_tensorrt_is_refused(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack", 2, NANO)
    done = node(make_site(tmp_path / "site", ORIN), "profile", pack, "-o", str(tmp_path / "points.csv"))
    assert done.code == 2 and "the graphs were made for TensorRT 8.2.1, here is 10.3.0.30" in done.err
    assert not (tmp_path / "points.csv").exists()


def test_the_command_prints_what_it_left(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack", 2)
    command = [sys.executable, "-m", "coformer_runtime", "profile", pack, "--threads", "1", "--cpu-time"]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment([]), check=True)
    assert done.stdout.decode().startswith(pack + ".csv: 2 points, ")
    assert read_points(pack + ".csv").provenance.clock == "cpu"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "coformer-profile-pack/9"}, "the format is 'coformer-profile-pack/9'"),
        ({"points": []}, "it has no points"),
        ({"points": [{"graph": "graphs/9.onnx", "embed": 4, "layers": [0], "heads": [1], "neurons": [8],
                      "shortcuts": True}]}, "'graphs/9.onnx' is not among its files"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path: Path, changes: dict, told: str) -> None:
    with pytest.raises(CoformerError, match=told):
        open_pack(make_pack(tmp_path / "pack", **changes))


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack")
    Path(pack, "graphs", "00001.onnx").write_bytes(b"x")
    with pytest.raises(CoformerError, match=r"'graphs/00001.onnx' has the SHA-256 .*; copy the pack again"):
        open_pack(pack)
    Path(pack, "graphs", "00001.onnx").unlink()
    with pytest.raises(CoformerError, match=r"'graphs/00001.onnx' is missing"):
        open_pack(pack)
    with pytest.raises(CoformerError, match=r"is no pack: pack.json cannot be read"):
        open_pack(str(tmp_path))


def test_an_engine_that_no_board_runs_is_refused(tmp_path: Path) -> None:
    engine = {"kind": "tensorrt-rtx", "version": "1.7", "precision": "float32"}
    pack = open_pack(make_pack(tmp_path / "pack", engine=engine))
    with pytest.raises(CoformerError, match="its engine is 'tensorrt-rtx', which is not measured on boards"):
        profile_pack(pack, str(tmp_path / "points.csv"), 1)


def test_vitals_of_a_nano(tmp_path: Path) -> None:
    at = machine_at(tmp_path, NANO_FILES, NANO_SAYS)
    assert machine_name(at) == "NVIDIA Jetson Nano Developer Kit" and power_mode(at) == "MAXN"
    zones = tmp_path / "sys" / "class" / "thermal"
    assert temperature_c(at) is None
    for number, shown in enumerate(("41500", "38000", "")):
        (zones / "thermal_zone{}".format(number)).mkdir(parents=True)
        (zones / "thermal_zone{}".format(number) / "temp").write_text(shown)
    assert temperature_c(at) == 41.5


def test_vitals_of_a_computer(tmp_path: Path) -> None:
    files = {
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Some  CPU\n\nprocessor\t: 1\nmodel name\t: Some CPU\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    }
    at = machine_at(tmp_path, files, {})
    assert machine_name(at) == "Some CPU, 2 cores" and power_mode(at) == "performance"
