"""A build for several bandwidths: what is picked and where it lies, that nothing is made twice, and that it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from coformer_runtime.alternatives import INDEX_NAME, load_index, open_held
from coformer_runtime.bundle import open_bundle
from tests.end_to_end.conftest import tiny
from tests.end_to_end.tiny import TINY, coformerc

__all__ = ["tiny"]

pytestmark = pytest.mark.slow

# Slow boards, so that it matters who takes part; at 0.05 Mbit/s even these inputs of 64 bytes take longer than that.
CONFIG = (
    TINY.replace("gflops = 12.0", "gflops = 0.03")
    .replace("gflops = 10.0", "gflops = 0.02")
    .replace('target = "raspberry-pi-4b"', 'target = "raspberry-pi-4b"\ngflops = 0.04\ncentral = true')
    .replace(
        "[booster]",
        """[policy]
strategy = "random"
basis = "per-norm"
[search]
iterations = 24
samples = 32
delta = 0.03
[booster]""",
    )
)
BANDWIDTHS = "1000,0.05,10"


@pytest.fixture(scope="module")
def config(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bandwidths")
    shutil.copy(tiny / "teacher.safetensors", folder)
    (folder / "changing.toml").write_text(CONFIG)
    return folder / "changing.toml"


@pytest.fixture(scope="module")
def out(config: Path) -> Path:
    folder = config.parent / "out"
    outcome = coformerc("build", config, "-o", folder, "--bandwidths", BANDWIDTHS)
    assert outcome.code == 0, outcome.err
    assert "alternatives, ms, estimated, at 0.05 / 10 / 1000 Mbit/s:" in outcome.out
    return folder


def test_what_is_picked_and_where_it_lies(config: Path, out: Path) -> None:
    index = load_index(str(out / "bundles" / "hall"))
    assert [each.name for each in index.alternatives] == ["0.05mbps", "10mbps"]
    slow, fast = index.alternatives
    assert index.bandwidths_mbps == (0.05, 10.0, 1000.0) and index.start == "10mbps" and index.estimated
    assert [device for device, _ in slow.manifests] == ["hall"]  # the others cost more than they are worth
    assert slow.predicted_ms[0] < fast.predicted_ms[0] and fast.predicted_ms[2] < fast.predicted_ms[1]
    (first, second) = index.ranges
    assert 0.05 < (first.to_mbps or 0.0) < 10.0 and second.from_mbps == first.to_mbps
    members = [device for device, _ in fast.manifests]
    assert sorted(path.name for path in (out / "bundles").iterdir()) == members
    for device in members:
        held = open_held(str(out / "bundles" / device))
        assert held.listing == index and held.device == device
        assert list(held.bundles) == (["0.05mbps", "10mbps"] if device == "hall" else ["10mbps"])
    told = json.loads((out / "report.json").read_text())["alternatives"]
    assert [each["build"] for each in told["built"]] == [slow.build, fast.build] and told["this"] == told["start"] == 1
    assert "For other bandwidths" in (out / "report.html").read_text()
    for name in ("0.05mbps", "10mbps"):
        own = json.loads((out / "alternatives" / name / "report.json").read_text())
        assert own["build"] == own["alternatives"]["built"][own["alternatives"]["this"]]["build"]
        assert (out / "alternatives" / name / "policy.json").is_file()


def test_nothing_that_is_shared_is_made_twice(config: Path, out: Path) -> None:
    stages = [each["name"] for each in json.loads((out / "report.json").read_text())["stages"]]
    once = ("import", "calibrate", "search")
    assert [stages.count(stage) for stage in once] == [1, 1, 1]
    assert stages.count("boost") == stages.count("decompose") == 2
    again = coformerc("build", config, "-o", out, "--bandwidths", BANDWIDTHS)
    assert again.code == 0 and "nothing to do: all " in again.out
    # One bandwidth more needs no further search, and what is picked before is not built again.
    journals = list((out / "cache" / "search").iterdir())
    more = coformerc("build", config, "-o", out, "--bandwidths", BANDWIDTHS + ",500", "--json")
    assert more.code == 0 and list((out / "cache" / "search").iterdir()) == journals
    made = {each["name"] for each in json.loads(more.out)["stages"] if not each["cached"]}
    assert made <= {"decompose", "pack"}
    assert coformerc("build", config, "-o", out, "--bandwidths", BANDWIDTHS).code == 0


def test_a_build_for_one_of_them_has_the_same_bytes(config: Path, out: Path) -> None:
    """The alternative of 1000 Mbit/s is what a build for that bandwidth is."""
    alone = config.parent / "alone"
    assert coformerc("build", config, "-o", alone).code == 0
    build = json.loads((alone / "build.json").read_text())
    assert build["build"] == load_index(str(out / "bundles" / "hall")).alternatives[1].build
    for device in build["devices"]:
        folders = (alone / "bundles" / device, out / "bundles" / device / "10mbps")
        one, other = (open_bundle(str(folder)).manifest for folder in folders)
        assert one == other


def test_it_is_valid_answers_and_is_described(out: Path) -> None:
    checks = json.loads(coformerc("validate", out, "--json").out)
    assert checks["ok"]
    assert {"0.05mbps: hall", "10mbps: whole system", "hall"} <= {each["device"] for each in checks["checks"]}
    golden = out / "bundles" / "hall" / "10mbps" / "golden"
    found = json.loads(coformerc("run", out, "--input", golden / "input.npy", "--json").out)
    wanted = np.load(golden / "answer.npy")
    np.testing.assert_allclose([each["logits"] for each in found["answers"]], wanted, rtol=1e-3, atol=1e-3)
    bench = json.loads(coformerc("bench", out, "--json").out)
    assert list(bench["alternatives"]) == ["0.05mbps", "10mbps"] and bench["build"] == found["build"]
    assert "10mbps\n" in coformerc("bench", out).out
    described = coformerc("inspect", out / "bundles" / "hall" / INDEX_NAME).out
    assert described.startswith("alternatives ") and "from 0 to " in described


def test_damage_is_found(out: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(out, tmp_path / "copied"))
    path = copied / "bundles" / "attic" / INDEX_NAME
    path.write_text(path.read_text().replace('"estimated": true', '"estimated": false'))
    outcome = coformerc("validate", copied)
    assert outcome.code == 1 and "it is not the index that the build wrote" in outcome.out


def test_search_and_dry_run_show_them(config: Path, out: Path, tmp_path: Path) -> None:
    found = json.loads(coformerc("search", config, "-o", out, "--bandwidths", BANDWIDTHS, "--json").out)
    told = found["alternatives"]
    assert [each["name"] for each in told["built"]] == ["0.05mbps", "10mbps"]
    index = load_index(str(out / "bundles" / "hall"))
    assert [tuple(each["latency_ms"]) for each in told["built"]] == [each.predicted_ms for each in index.alternatives]
    assert [each["to_mbps"] for each in told["ranges"]] == [each.to_mbps for each in index.ranges]
    assert "0.05mbps: 0 to " in coformerc("search", config, "-o", out, "--bandwidths", BANDWIDTHS).out
    plan = coformerc("build", config, "-o", out, "--bandwidths", BANDWIDTHS, "--dry-run").out
    assert "search by strategy 'random': 24 policies" in plan and ": all 9 cached" in plan
    assert "note: a policy for each bandwidth is picked from what the search evaluates" in plan
    fresh = coformerc("build", config, "-o", tmp_path / "new", "--bandwidths", BANDWIDTHS, "--dry-run").out
    assert ": 9 of 9 to build" in fresh


def test_memory_counts_together(config: Path, out: Path) -> None:
    """Each alternative fits alone; both do not."""
    memory = json.loads((out / "report.json").read_text())["alternatives"]["memory_bytes"]["hall"] / 1e6
    small = config.with_name("small.toml")
    limit = memory - 1e-3
    small.write_text(CONFIG.replace("central = true", f"central = true\nmemory_mb = {limit}"))
    journal = next((out / "cache" / "search").iterdir()) / "journal.jsonl"
    lines = journal.read_text().splitlines()
    header = json.loads(lines[0])
    devices, network = json.loads(header["devices"])
    next(device for device in devices if device[0] == "hall")[3] = limit  # as if the search had been for this board
    mine = config.with_name("journal.jsonl")
    mine.write_text("\n".join([json.dumps({**header, "devices": json.dumps([devices, network])}), *lines[1:]]) + "\n")
    small.write_text(small.read_text().replace("samples = 32", 'samples = 32\njournal = "journal.jsonl"'))
    outcome = coformerc("build", small, "-o", config.parent / "small", "--bandwidths", BANDWIDTHS)
    assert outcome.code == 2
    assert "C6: the members of 2 alternatives need " in outcome.err and "name fewer bandwidths" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bandwidths", "0,2"), "0 Mbit/s is no bandwidth"),
        (
            ("--bandwidths", "abc"),
            "--bandwidths: 'abc' is no number; write rates in Mbit/s above 0, such as 2,",
        ),
        (("--bandwidths", "100"), "one bandwidth leaves nothing to change between"),
        (("--bandwidths", "2,100", "--strategy", "uniform"), "the strategy 'uniform' gives one policy, whatever the"),
        (("--bandwidths", "0.05,1", "--pick", "under=0.0001"), "at 0.05 Mbit/s no evaluated policy is under 0.0001 ms"),
    ],
)
def test_mistakes(config: Path, out: Path, words: tuple[str, ...], said: str) -> None:
    outcome = coformerc("build", config, "-o", out, *words)
    assert outcome.code == 2 and said in outcome.err
