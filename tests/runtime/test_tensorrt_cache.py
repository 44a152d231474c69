"""The cache of plans: whole or not at all, and found only by what a plan is bound to."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from coformer_runtime.errors import CoformerError
from coformer_runtime.tensorrt import cache
from coformer_runtime.tensorrt.board import Board
from coformer_runtime.tensorrt.cache import Key, find_plan, key_of, publish, read_description, remove_leftovers
from coformer_runtime.tensorrt.memory import available_mb, check_memory, read_meminfo
from coformer_runtime.tensorrt.recipe import Recipe

BOARD = Board("8.2.1.8", "NVIDIA Tegra X1", 53, "10.2")
RECIPE = Recipe("8.2.1", 53, "member.onnx", "float32", (), (), 64, 1, "timing.cache", False)
KEY = key_of(BOARD, "a" * 64, RECIPE)
GRAPH = "hall/member.onnx"


def publish_content(directory: Path, content: bytes, key: Key = KEY) -> cache.Cached:
    built = directory / "built.plan"
    built.write_bytes(content)
    return publish(str(directory), key, str(built))


def test_found_as_published(tmp_path: Path) -> None:
    published = publish_content(tmp_path, b"the plan")
    assert find_plan(str(tmp_path), KEY, GRAPH) == published == read_description(published.description)
    assert Path(published.plan).read_bytes() == b"the plan"
    assert sorted(map(str, tmp_path.iterdir())) == sorted([published.plan, published.description])


def test_the_name_is_by_all_parts_of_the_key() -> None:
    names = {KEY.file_name()}
    for field in Key._fields:
        old = getattr(KEY, field)
        names.add(KEY._replace(**{field: old + 1 if isinstance(old, int) else "b" + old[1:]}).file_name())
    assert len(names) == 1 + len(Key._fields)
    assert len({name[:16] for name in names}) == 2  # the first half is the graph's


def test_rebuild_replaces(tmp_path: Path) -> None:
    old = publish_content(tmp_path, b"old")
    new = publish_content(tmp_path, b"new")
    assert find_plan(str(tmp_path), KEY, GRAPH) == new
    assert Path(old.plan).exists()  # one who has read the old description may still open it
    (tmp_path / "x.json.part").write_bytes(b"{")
    (tmp_path / (KEY.file_name()[:16] + "-0.json")).write_bytes(b"{")
    remove_leftovers(str(tmp_path))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".plan"]
    assert find_plan(str(tmp_path), KEY, GRAPH) == new


@pytest.mark.parametrize("function", ["rename", "fsync", "write"])
@pytest.mark.parametrize("call", range(4))
def test_failing_disk_leaves_the_old_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    old = publish_content(tmp_path, b"old")
    calls = iter(range(100))
    true = getattr(os, function)

    def fail(*arguments: Any) -> Any:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with contextlib.suppress(OSError):
            publish_content(tmp_path, b"new")
        made = next(calls)
    found = find_plan(str(tmp_path), KEY, GRAPH)
    assert Path(found.plan).read_bytes() in (b"old", b"new")
    if made <= call or function == "rename":
        assert Path(found.plan).read_bytes() == (b"new" if made <= call else b"old")
    assert Path(old.plan).read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"", b"the pla", b"the plam", None])
def test_damaged_plan_is_refused(tmp_path: Path, content: Any) -> None:
    published = publish_content(tmp_path, b"the plan")
    if content is None:
        Path(published.plan).unlink()
    else:
        Path(published.plan).write_bytes(content)
    with pytest.raises(CoformerError) as caught:
        find_plan(str(tmp_path), KEY, GRAPH)
    assert caught.value.what.startswith("its plan is damaged: " if content is not None else "its plan cannot be read")
    assert caught.value.mend == "run 'coformer-node build' on this board"


def test_description_under_a_foreign_name_is_refused(tmp_path: Path) -> None:
    other = KEY._replace(device="Orin", sm=87)
    published = publish_content(tmp_path, b"the plan", other)
    Path(published.description).rename(tmp_path / KEY.file_name())
    with pytest.raises(CoformerError) as caught:
        find_plan(str(tmp_path), KEY, GRAPH)
    assert caught.value.what == (
        "the plan was made elsewhere or otherwise: for the GPU Orin, here is NVIDIA Tegra X1; SM 87, here is 53"
    )


def test_the_nearest_plan_gives_the_reason(tmp_path: Path) -> None:
    publish_content(tmp_path, b"far", KEY._replace(device="Orin", sm=87, tensorrt="10.3.0.30"))
    publish_content(tmp_path, b"near", KEY._replace(cuda="10.0"))
    publish_content(tmp_path, b"of another graph", KEY._replace(graph_sha256="c" * 64))
    (tmp_path / ("a" * 16 + "-damaged.json")).write_text("{")
    with pytest.raises(CoformerError, match=r"made elsewhere or otherwise: for CUDA 10\.0, here is 10\.2; run"):
        find_plan(str(tmp_path), KEY, GRAPH)


@pytest.mark.parametrize("directory", ["absent", "."])
def test_none_built(tmp_path: Path, directory: str) -> None:
    with pytest.raises(CoformerError, match="no plan was built from them; run 'coformer-node build' on this board"):
        find_plan(str(tmp_path / directory), KEY, GRAPH)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("format", "coformer-engine/9", "is of another format than 'coformer-engine/1'"),
        ("plan_sha256", "../../etc/passwd", "'plan_sha256' must be a SHA-256 in lower-case hex"),
        ("plan_bytes", 0, "'plan_bytes' must be an integer of at least 1"),
        ("more", 1, "unknown key 'more'"),
    ],
)
def test_damaged_description(tmp_path: Path, key: str, value: Any, what: str) -> None:
    path = Path(publish_content(tmp_path, b"the plan").description)
    document = json.loads(path.read_text())
    document[key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(CoformerError) as caught:
        find_plan(str(tmp_path), KEY, GRAPH)
    assert caught.value.what.startswith(what)
    assert caught.value.mend == "run 'coformer-node build' on this board with --rebuild"


def test_memory_of_a_nano(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:        4059472 kB\nMemFree:          171120 kB\nMemAvailable:    1494012 kB\n"
        "SwapTotal:       2029728 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n"
    )
    assert read_meminfo(str(meminfo))["MemTotal"] == 4059472 << 10
    assert available_mb(str(meminfo)) == 1458
    check_memory(1458, 1458, GRAPH)
    with pytest.raises(CoformerError) as caught:
        check_memory(1459, 1458, GRAPH)
    assert str(caught.value).startswith(
        "hall/member.onnx: 1,459 MB of memory are needed to build, 1,458 MB are available; stop other programs, the "
    )
