"""`coformerc build --dry-run`: shapes, costs, what is cached; and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coformer_compiler.compile import STAGES
from tests.end_to_end.tiny import TINY, coformerc, write_inputs


def test_a_plan_for_a_new_folder(tiny: Path, tmp_path: Path) -> None:
    outcome = coformerc("build", tiny / "tiny.toml", "-o", tmp_path / "new", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = outcome.out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert lines[:6] == [
        "policy by strategy 'proportional'",
        "                layers  embed  heads  neurons",
        "teacher              2     24      3       96",
        "attic                2      8      1       32",
        "hall (central)       2      8      1       36",
        "desk                 2      8      1       28",
    ]
    assert lines[7].split() == ["target", "k", "FLOPs", "%", "teacher", "k", "params", "MB", "of", "memory"]
    assert lines[9].split()[:2] == ["attic", "cpu"]
    assert lines[9].endswith("67 of 512")
    assert f"stages in {tmp_path / 'new'}: 9 of 9 to build" in lines
    assert [line.split() for line in lines[-9:]] == [[stage, "to", "build"] for stage in STAGES]


def test_a_plan_for_a_finished_build(out: Path, tiny: Path) -> None:
    outcome = coformerc("build", tiny / "tiny.toml", "-o", out, "--dry-run")
    assert f"stages in {out}: all 9 cached\n" in outcome.out
    found = json.loads(coformerc("build", tiny / "tiny.toml", "-o", out, "--dry-run", "--json").out)
    assert found["stages"] == dict.fromkeys(sorted(STAGES), "cached")
    report = json.loads((out / "report.json").read_text())
    assert found["teacher"]["flops"] == report["cost"]["teacher"]["flops"]
    for planned, built in zip(found["members"], report["cost"]["members"], strict=True):
        assert planned["device"] == built["device"]
        assert planned["flops"] >= built["flops"]
        assert planned["heads"] == [1, 1]


def test_a_policy_file_is_shown_in_the_order_of_the_devices(out: Path, tmp_path: Path) -> None:
    policy = json.loads((out / "policy.json").read_text())
    policy["members"].reverse()
    (tmp_path / "mine.json").write_text(json.dumps(policy))
    write_inputs(tmp_path)
    (tmp_path / "file.toml").write_text(TINY + '[policy]\nstrategy = "file"\nfile = "mine.json"\n')
    found = json.loads(coformerc("build", tmp_path / "file.toml", "-o", tmp_path / "o", "--dry-run", "--json").out)
    assert [(each["device"], each["neurons"][0]) for each in found["members"]] == [
        ("attic", 32),
        ("hall", 36),
        ("desk", 28),
    ]


def test_a_policy_file_for_other_devices(out: Path, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    (tmp_path / "mine.json").write_text((out / "policy.json").read_text().replace('"desk"', '"shed"'))
    (tmp_path / "file.toml").write_text(TINY + '[policy]\nstrategy = "file"\nfile = "mine.json"\n')
    outcome = coformerc("build", tmp_path / "file.toml", "-o", tmp_path / "o", "--dry-run")
    assert (outcome.code, outcome.err) == (
        2,
        "error: policy: it is for the devices attic, hall, shed; the build has attic, hall, desk; "
        "name devices of the build, each once\n",
    )


def test_a_device_that_is_too_small(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    for old, new, told in (
        (
            "memory_mb = 512",
            "memory_mb = 50",
            "C6: the member needs 67 MB of memory, the device has 50: short by 17",
        ),
        ("memory_mb = 512", "max_gflop = 1e-6", "C5: the member needs "),
    ):
        (tmp_path / "small.toml").write_text(TINY.replace(old, new))
        outcome = coformerc("build", tmp_path / "small.toml", "-o", tmp_path / "o", "--dry-run")
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: device 'attic': {told}")
        assert " of 'attic' or give it a smaller share\n" in outcome.err


def test_a_device_on_standby_needs_memory_for_the_aggregator(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    needed = []
    for standby in ("", "\nstandby = true"):
        (tmp_path / "s.toml").write_text(TINY.replace("memory_mb = 512", f"memory_mb = 512{standby}"))
        found = json.loads(coformerc("build", tmp_path / "s.toml", "-o", tmp_path / "o", "--dry-run", "--json").out)
        needed.append([member["memory_mb"] for member in found["members"]])
    (attic, *others), (more, *same) = needed
    assert others == same
    assert more - attic == pytest.approx((24 + 1) * 10 * 4 / 1e6)  # of 24 features and 10 classes, in float32


def test_notes_say_what_was_shrunk(tiny: Path, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    before = json.loads(coformerc("build", tiny / "tiny.toml", "-o", tmp_path / "o", "--dry-run", "--json").out)
    limit = 0.9 * before["members"][0]["flops"] / 1e9
    (tmp_path / "slow.toml").write_text(TINY.replace("memory_mb = 512", f"max_gflop = {limit}"))
    outcome = coformerc("build", tmp_path / "slow.toml", "-o", tmp_path / "o", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("note: 'attic' was shrunk until C5 held\n")


SEARCH = '[policy]\nstrategy = "debo"\n[search]\niterations = 20\n'


def test_a_search_shows_what_it_would_look_at(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    limited = TINY.replace("memory_mb = 512", "memory_mb = 512\nmax_gflop = 2e-5\ndeadline_ms = 3")
    (tmp_path / "search.toml").write_text(limited + SEARCH)
    outcome = coformerc("build", tmp_path / "search.toml", "-o", tmp_path / "o", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[:2] == [
        "search by strategy 'debo': 20 policies, 8 of them at random",
        "beside 'uniform' and 'proportional'",
    ]
    assert lines[2].startswith("of 512 random policies ") and lines[2].endswith("% fit as drawn, 100% after shrinking")
    assert lines[3].endswith("% break C5 of 'attic'")
    heads = next(line for line in lines if "layers" in line)
    assert heads.split("  ")[-1] == "left out" and "ms, est." in heads
    row = next(line for line in lines if line.startswith("attic")).split()
    assert row[1] == "1-2" and row[4:6] == ["of", "20.0"] and row[-2:] != ["0", "%"]
    assert any(line.startswith("latency of a request, estimated: ") for line in lines)
    found = json.loads(coformerc("build", tmp_path / "search.toml", "-o", tmp_path / "o", "--dry-run", "--json").out)
    attic = found["search"]["devices"][0]
    assert attic["flops"][1] <= 2e4 and attic["arrival_ms"][1] <= 3 and 0 < attic["left_out_share"] < 1
    assert found["search"]["devices"][1]["left_out_share"] == 0  # central
    assert found["members"] == [] and found["latency"] is None


def test_a_search_that_has_to_leave_a_device_out_is_shown_too(tmp_path: Path) -> None:
    """Its smallest member does not fit, at which every fixed strategy ends."""
    write_inputs(tmp_path)
    (tmp_path / "small.toml").write_text(TINY.replace("memory_mb = 512", "max_gflop = 1e-6") + SEARCH)
    outcome = coformerc("build", tmp_path / "small.toml", "-o", tmp_path / "o", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    attic = json.loads(outcome.out)["search"]["devices"][0]
    assert attic["left_out_share"] == 1 and attic["flops"] is None
    text = coformerc("build", tmp_path / "small.toml", "-o", tmp_path / "o", "--dry-run").out
    assert next(line for line in text.splitlines() if line.startswith("attic")).split()[1:4] == ["-", "-", "-"]


def test_a_search_in_which_nothing_fits_says_what_to_relax(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    central = TINY.replace('target = "raspberry-pi-4b"', 'target = "raspberry-pi-4b"\nmemory_mb = 50')
    (tmp_path / "small.toml").write_text(central + SEARCH)
    outcome = coformerc("build", tmp_path / "small.toml", "-o", tmp_path / "o", "--dry-run")
    assert outcome.code == 2
    assert "none of 512 random policies fits the devices" in outcome.err and "memory_mb of 'hall'" in outcome.err


def test_a_deadline_holds_for_a_fixed_policy_too(out: Path, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    late = TINY.replace("gflops = 10.0", "gflops = 10.0\ndeadline_ms = 0.3")
    told = "error: device 'desk': its features would be at the central device after "
    mend = (
        "raise deadline_ms of 'desk' or network.mbps, give it a smaller share, or search for a policy that is in time "
        "(--strategy debo)\n"
    )
    (tmp_path / "mine.json").write_text((out / "policy.json").read_text())
    for policy in ("", '[policy]\nstrategy = "uniform"\n', '[policy]\nstrategy = "file"\nfile = "mine.json"\n'):
        (tmp_path / "late.toml").write_text(late + policy)
        for more in (["--dry-run"], []):
            outcome = coformerc("build", tmp_path / "late.toml", "-o", tmp_path / "o", *more)
            assert outcome.code == 2 and outcome.err.partition(told)[1] == told, outcome.err
            assert " ms (estimated), its deadline is 0.3: late by 0." in outcome.err and outcome.err.endswith(mend)
    (tmp_path / "late.toml").write_text(late.replace("0.3", "30"))
    assert coformerc("build", tmp_path / "late.toml", "-o", tmp_path / "o", "--dry-run").code == 0
