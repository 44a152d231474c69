"""The build as a whole: what is cached, what a change rebuilds, what appears in OUT and when."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from coformer_compiler import output
from coformer_compiler.artifact import tree_digest
from coformer_compiler.compile import STAGES, build, plan
from coformer_compiler.config import Overrides, read_config
from coformer_compiler.progress import SilentProgress
from coformer_runtime.errors import CoformerError
from tests.end_to_end.conftest import _eighty_columns, copied, out, tiny
from tests.end_to_end.tiny import TINY, coformerc

__all__ = ["_eighty_columns", "copied", "out", "tiny"]


def plan_of(out: Path, config: Path, overrides: Overrides = Overrides()) -> list[str]:  # noqa: B008 (frozen)
    """The stages that would have to run."""
    found = plan(read_config(config, overrides), out, SilentProgress())
    assert tuple(found) == STAGES
    return [stage for stage, cached in found.items() if not cached]


@pytest.fixture
def changed(tiny: Path, tmp_path: Path):
    """tiny.toml with a change, beside the same teacher."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in TINY
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.replace(old, new) if old else TINY)
        shutil.copy(tiny / "teacher.safetensors", tmp_path)
        return path

    return write


def test_a_second_build_does_nothing_and_says_so(copied: Path, tiny: Path) -> None:
    before = {path: path.stat() for path in (copied / "bundles").rglob("*")}
    outcome = coformerc("build", tiny / "tiny.toml", "-o", copied)
    assert outcome.code == 0
    assert outcome.err.splitlines() == [f"{stage}: from the cache" for stage in STAGES]
    assert outcome.out.endswith(f"\nnothing to do: all 9 stages are cached in {copied}\n")
    after = {path: path.stat() for path in (copied / "bundles").rglob("*")}
    assert {path: (s.st_ino, s.st_mtime_ns) for path, s in before.items()} == {
        path: (s.st_ino, s.st_mtime_ns) for path, s in after.items()
    }
    assert all(stage["cached"] for stage in json.loads((copied / "report.json").read_text())["stages"])


def test_nothing_is_left_to_do_wherever_the_folder_and_the_files_are(copied: Path, changed) -> None:
    assert plan_of(copied, changed()) == []


AFTER_BOOST = ["boost", "evaluate", "lower", "pack", "measure"]
CHANGES = {
    "the title": (('title = "Tiny"', 'title = "Other"'), []),
    "the name of a device": (('name = "hall"', 'name = "shed"'), ["decompose", "transplant", *AFTER_BOOST]),
    "steps": (("steps = 2\njoint", "steps = 3\njoint"), AFTER_BOOST),
    "memory": (("memory_mb = 512", "memory_mb = 511"), ["decompose", "transplant", *AFTER_BOOST]),
    "strategy": (("[data]", '[policy]\nstrategy = "uniform"\n[data]'), ["decompose", "transplant", *AFTER_BOOST]),
    "basis": (("[data]", '[policy]\nbasis = "global"\n[data]'), ["decompose", "transplant", *AFTER_BOOST]),
    "calibration": (("calibration = 64", "calibration = 65"), list(STAGES[1:])),
    "standby": (('name = "desk"', 'name = "desk"\nstandby = true'), ["decompose", "transplant", *AFTER_BOOST]),
    "seed": (("seed = 0", "seed = 1"), list(STAGES)),
    "mean": (("[data]", "[data]\ncrop = 0.5"), []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_rebuilds_what_depends_on_it(out: Path, changed, change: str) -> None:
    """As far as a plan can see: behind a stage that has to run, all count as missing."""
    (old, new), missing = CHANGES[change]
    assert plan_of(out, changed(old, new)) == missing


def test_a_new_target_for_a_device_trains_nothing_again(copied: Path, changed) -> None:
    """Its figures are the same, so the policy's digest is, and with it all that follows until the graphs."""
    config = changed('target = "raspberry-pi-4b"', 'target = "cpu"\ngflops = 13.5\nmemory_mb = 8192')
    outcome = coformerc("build", config, "-o", copied)
    assert outcome.code == 0, outcome.err
    cached = [line.partition(":")[0] for line in outcome.err.splitlines() if line.endswith("from the cache")]
    assert cached == ["import", "calibrate", "transplant", "boost", "evaluate"]
    assert "bundles: " in outcome.out and "nothing to do" not in outcome.out


def test_another_toolchain_starts_anew(out: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coformer_compiler.artifact.toolchain_digest", lambda: "another")
    assert plan_of(out, tiny / "tiny.toml") == list(STAGES)


def test_a_damaged_cache_entry_is_made_again_and_nothing_else(copied: Path, tiny: Path) -> None:
    graph = next((copied / "cache" / "lower").rglob("member.onnx"))
    content = bytearray(graph.read_bytes())
    content[100] ^= 1
    graph.write_bytes(content)
    before = tree_digest(copied / "bundles")
    outcome = coformerc("build", tiny / "tiny.toml", "-o", copied)
    assert outcome.code == 0
    assert "lower: the cache entry is damaged, it is made again\n" in outcome.err
    made = [line for line in outcome.err.splitlines() if not line.endswith("from the cache")]
    assert [line.partition(":")[0].strip() for line in made] == ["lower", "graphs", "lower"]
    assert tree_digest(copied / "bundles") == before


def test_bundles_that_were_touched_are_published_again(copied: Path, tiny: Path) -> None:
    before = tree_digest(copied / "bundles")
    (copied / "bundles" / "desk" / "member.onnx").write_bytes(b"other")
    shutil.rmtree(copied / "bundles" / "hall")
    (copied / "bundles" / "gone").mkdir()
    (copied / "bundles" / "gone" / "manifest.json").write_text("{}")
    assert coformerc("build", tiny / "tiny.toml", "-o", copied).code == 0
    assert tree_digest(copied / "bundles") == before
    assert sorted(path.name for path in (copied / "bundles").iterdir()) == ["attic", "desk", "hall"]
    assert coformerc("validate", copied).code == 0


def test_a_build_that_is_interrupted_while_it_publishes_is_no_finished_build(
    copied: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "bundles" / "desk" / "member.onnx").write_bytes(b"other")
    config = read_config(tiny / "tiny.toml", Overrides())

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "write_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(config, copied, SilentProgress())
    outcome = coformerc("validate", copied)
    assert outcome.code == 2
    assert "holds no finished build" in outcome.err
    monkeypatch.undo()
    assert build(config, copied, SilentProgress()).changed is False
    assert coformerc("validate", copied).code == 0


def test_only_finished_things_lie_in_the_output_folder(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "build.json",
        "bundles",
        "cache",
        "policy.json",
        "report.html",
        "report.json",
    ]
    left = [path for path in (out / "cache").glob("*/*") if path.suffix]
    assert left == []


def test_two_builds_in_one_folder_at_once(copied: Path, tiny: Path) -> None:
    with (copied / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = coformerc("build", tiny / "tiny.toml", "-o", copied)
    assert outcome.code == 2
    assert outcome.err == (
        f"error: output folder {copied}: another build is writing there; wait for it, or choose another with -o\n"
    )


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_folder_that_cannot_be(tiny: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = coformerc("build", tiny / "tiny.toml", "-o", tmp_path / place)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: output folder {tmp_path / place}: cannot be written (")
    assert outcome.err.endswith("); choose another with -o\n")
    assert (tmp_path / "file").read_text() == "in the way"


def test_resume_refuses_to_begin(tiny: Path, tmp_path: Path) -> None:
    outcome = coformerc("build", tiny / "tiny.toml", "-o", tmp_path / "new", "--resume")
    assert outcome.code == 2
    assert outcome.err == (
        f"error: output folder {tmp_path / 'new'}: there is nothing to resume; leave --resume away to begin\n"
    )
    assert not (tmp_path / "new").exists()


def test_resume_goes_on(copied: Path, tiny: Path) -> None:
    for name in ("build.json", "report.json", "report.html", "policy.json"):
        (copied / name).unlink()
    shutil.rmtree(copied / "bundles")
    shutil.rmtree(copied / "cache" / "measure")
    outcome = coformerc("build", tiny / "tiny.toml", "-o", copied, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    ran = [stage["name"] for stage in json.loads(outcome.out)["stages"] if not stage["cached"]]
    assert ran == ["measure"]


def test_classes_of_data_and_teacher_have_to_agree(changed, tmp_path: Path) -> None:
    config = read_config(changed(), Overrides(weights="random", options=(("num_classes", "12"),)))
    with pytest.raises(CoformerError) as caught:
        build(config, tmp_path / "out", SilentProgress())
    assert str(caught.value) == (
        "data.source 'digits': the data has 10 classes, the teacher answers with 12; give the data that the teacher "
        "was trained for, or a teacher fine-tuned on this data"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "cache"]
