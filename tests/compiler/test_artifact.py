"""The store: what is made, what is found, and what damage and interruptions leave behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coformer_compiler import artifact as artifact_module
from coformer_compiler.artifact import Artifact, NotCached, Store, file_digest, load_artifact, tree_digest
from coformer_compiler.progress import SilentProgress


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Maker:
    """A stage that writes a text and counts how often it had to."""

    def __init__(self, text: str = "made") -> None:
        self.text, self.runs = text, 0

    def __call__(self, folder: Path, _work: Path) -> None:
        self.runs += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "result.txt").write_text(self.text)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", Notes())


def run(
    store: Store, make: Maker, parents: Sequence[Artifact] = (), options: Mapping[str, Any] | None = None
) -> Artifact:
    return store.stage("lower", parents, options or {}, make)


def lines(store: Store) -> list[str]:
    assert isinstance(store.progress, Notes)
    return store.progress.lines


def test_a_stage_runs_once(store: Store) -> None:
    make = Maker()
    made, found = run(store, make), run(store, make)
    assert make.runs == 1
    assert (made.cached, found.cached) == (False, True)
    assert (made.path, made.sha256) == (found.path, found.sha256)
    assert store.used == [made, found]
    assert lines(store) == ["lower: from the cache"]
    assert (made.path / "deep" / "result.txt").read_text() == "made"
    record = json.loads((made.path / "artifact.json").read_text())
    assert (record["kind"], record["sha256"], record["parents"]) == ("lower", made.sha256, [])


def test_the_key_depends_on_options_parents_and_toolchain(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    parent = Artifact("boost", Path(), "1" * 64, ())
    paths = [
        run(store, make).path,
        run(store, make, options={"opset": 13}).path,
        run(store, make, options={"opset": 20}).path,
        run(store, make, [parent]).path,
    ]
    monkeypatch.setattr(artifact_module, "toolchain_digest", lambda: "another")
    paths.append(run(store, make).path)
    assert len(set(paths)) == make.runs == 5


def test_a_parent_that_was_made_again_the_same_does_not_count_as_a_change(store: Store) -> None:
    one, other = (Artifact("boost", Path(place), "1" * 64, (), seconds) for place, seconds in (("a", 1.0), ("b", 2.0)))
    make = Maker()
    run(store, make, [one])
    assert run(store, make, [other]).cached


def test_a_read_only_store_names_the_stage_and_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", SilentProgress(), read_only=True)
    with pytest.raises(NotCached, match="lower"):
        run(store, Maker())
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "another byte": lambda folder: (folder / "deep" / "result.txt").write_text("mode"),
    "a missing file": lambda folder: (folder / "deep" / "result.txt").unlink(),
    "one file more": lambda folder: (folder / "more.txt").write_text(""),
    "no record": lambda folder: (folder / "artifact.json").unlink(),
    "a record cut short": lambda folder: (folder / "artifact.json").write_text('{"kind'),
    "a record of another kind": lambda folder: (folder / "artifact.json").write_text("[1]"),
    "a record without its digest": lambda folder: (folder / "artifact.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_made_again(store: Store, damage: str) -> None:
    make = Maker()
    before = run(store, make)
    DAMAGE[damage](before.path)
    assert load_artifact("lower", before.path) is None
    after = run(store, make)
    assert make.runs == 2
    assert (after.cached, after.sha256, after.path) == (False, before.sha256, before.path)
    assert lines(store) == ["lower: the cache entry is damaged, it is made again"]
    assert [path.name for path in before.path.rglob("*") if path.is_file()].count("more.txt") == 0


def test_an_interruption_leaves_no_artifact_and_keeps_the_checkpoints(store: Store) -> None:
    def interrupted(folder: Path, work: Path) -> None:
        (folder / "half.txt").write_text("half")
        (work / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage("boost", (), {}, interrupted)
    assert [path.suffix for path in (store.folder / "boost").iterdir()] == [".work"]

    def resumed(folder: Path, work: Path) -> None:
        assert not (folder / "half.txt").exists()
        (folder / "whole.txt").write_text((work / "checkpoint").read_text())

    made = store.stage("boost", (), {}, resumed)
    assert (made.path / "whole.txt").read_text() == "step 3"
    assert [path.name for path in (store.folder / "boost").iterdir()] == [made.path.name]


def test_what_a_kill_under_another_key_has_left_is_cleared(store: Store) -> None:
    left = store.folder / "lower" / "0123.new"
    left.mkdir(parents=True)
    (left / "half.onnx").write_text("half")
    run(store, Maker())
    assert not left.exists()


def test_the_digest_is_of_paths_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> Path:
        (tmp_path / name).mkdir()
        for path, text in files.items():
            (tmp_path / name / path).write_text(text)
        return tmp_path / name

    one = tree_digest(folder("one", a="x", b="y"))
    assert tree_digest(folder("same", b="y", a="x")) == one
    assert tree_digest(folder("moved", a="y", b="x")) != one
    assert tree_digest(folder("less", a="x")) != one
    (tmp_path / "one" / "artifact.json").write_text("not counted")
    assert tree_digest(tmp_path / "one") == one
    assert file_digest(tmp_path / "one" / "a") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_other_processes_wait_for_the_first_and_take_part_where_all_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under torchrun: this process has another rank than the one that makes the artifact."""
    taken_part: list[Path] = []

    def first_process_makes() -> None:
        time.sleep(0.3)
        key = next((store.folder / "boost").glob("*.work")).name.removesuffix(".work")
        first = Store(store.folder, SilentProgress())
        first._make("boost", store.folder / "boost" / key, (), Maker())

    def part(folder: Path, work: Path) -> None:
        taken_part.append(folder)
        (folder / "mine.txt").write_text("does not count")
        assert work.name.endswith(".work")

    monkeypatch.setenv("RANK", "1")
    thread = threading.Thread(target=first_process_makes)
    thread.start()
    found = store.stage("boost", (), {}, part, collective=True)
    thread.join()
    assert found.cached
    assert sorted(path.name for path in found.path.iterdir()) == ["artifact.json", "deep"]
    assert len(taken_part) == 1 and not taken_part[0].exists()


def test_pruning_keeps_what_was_used_last(store: Store) -> None:
    make = Maker()
    made = [run(store, make, options={"opset": opset}) for opset in range(8)]
    for age, artifact in enumerate(made):
        os.utime(artifact.path / "artifact.json", (1000 + age, 1000 + age))
    store.used.clear()
    run(store, make, options={"opset": 0})
    store.prune()
    assert [artifact.path.exists() for artifact in made] == [True, *[False] * 4, True, True, True]
    assert make.runs == 8, "what was pruned is made again when it is asked for"
    run(store, make, options={"opset": 1})
    assert make.runs == 9


def test_pruning_never_removes_what_this_build_used(store: Store) -> None:
    make = Maker()
    made = [run(store, make, options={"opset": opset}) for opset in range(8)]
    store.prune()
    assert all(artifact.path.exists() for artifact in made)
