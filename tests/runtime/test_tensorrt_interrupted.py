"""`coformer-node build` that is killed, or whose disk is full: what was built before is as it was."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from tests.runtime.boards import (
    NANO,
    Done,
    cache_of,
    environment,
    files_of,
    make_bundle,
    make_site,
    node,
    plans_of,
)


def test_kill_leaves_no_half_plan(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    slow = make_site(tmp_path / "slow", NANO, {"build": 60})
    words = [sys.executable, "-m", "coformer_runtime", "build", bundle, "--rebuild"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment(slow)) as parent:
        child = _child_of(parent.pid)
        busy = node(nano_site, "build", bundle)
        assert busy.code == 2 and "another build is running here; wait until it has ended" in busy.err
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < until, "the child outlives its parent"
        time.sleep(0.02)
    left = {path: content for path, content in files_of(cache_of(bundle)).items() if not path.startswith("building-")}
    assert left == before
    assert node(nano_site, "validate", bundle).code == 0
    (cache_of(bundle) / "half.plan").write_bytes(b"half")
    assert node(nano_site, "build", bundle).code == 0
    assert [path for path in files_of(cache_of(bundle)) if path.startswith("building-") or "half" in path] == []


def _child_of(parent: int) -> int:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        children = Path("/proc/{0}/task/{0}/children".format(parent)).read_text().split()
        for child in children:
            # Once it has forked and executed, and set what ends it with its parent.
            if "coformer_runtime.tensorrt.child" in Path("/proc/{}/cmdline".format(child)).read_text():
                time.sleep(1.0)
                return int(child)
        time.sleep(0.02)
    raise AssertionError("no child was started")


def _alive(pid: int) -> bool:
    try:
        state = Path("/proc/{}/stat".format(pid)).read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("nearly", [True, False], ids=["plan", "everything"])
def test_full_disk_leaves_the_old_plan(tmp_path: Path, nano_site: List[str], nearly: bool) -> None:
    """A limit on the size of files stands in for the disk: the same OSError at the same call."""
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    small = make_site(tmp_path / "small", NANO)
    limit = plans_of(bundle)[0].stat().st_size - 20 if nearly else 20
    with Path(small[0], "tensorrt.py").open("a") as stream:
        stream.write("\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n".format(limit))
    done = node(small, "build", bundle, "--rebuild")
    assert done.code == 2
    assert re.search(r"building-\w+/0: the plan \([\d,]+ bytes\) cannot be written " + NO_ROOM_FOR_THE_FILE, done.err)
    assert files_of(cache_of(bundle)) == before
    assert node(nano_site, "validate", bundle).code == 0


NO_ROOM = (
    r"[\d,]+ bytes are free there\); free some space, or name another directory "
    r"\(build: --cache, profile: -o\); what was built before is as it was\n$"
)
NO_ROOM_FOR_THE_FILE = r"\(File too large; " + NO_ROOM


def limited(nano_site: List[str], limit: int, *words: str) -> Done:
    """`coformer-node` that can write no file of more than `limit` bytes, nor can the processes that it starts."""
    code = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
        "runpy.run_module('coformer_runtime', run_name='__main__')"
    ).format(limit)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(nano_site),
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("limit", [0, 20])
def test_full_disk_from_the_start(tmp_path: Path, nano_site: List[str], limit: int) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    done = limited(nano_site, limit, "build", bundle, "--rebuild")
    assert (done.code, done.out) == (2, "")
    assert re.search(r"building-\w+/0: what a build needs cannot be written " + NO_ROOM_FOR_THE_FILE, done.err)
    assert files_of(cache_of(bundle)) == before
    assert node(nano_site, "validate", bundle).code == 0


def test_full_disk_before_the_ledgers_line(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    written = cache_of(bundle) / "ledger.jsonl"
    written.write_text(written.read_text() * 100)
    before = written.read_text()
    done = limited(nano_site, written.stat().st_size + 20, "build", bundle, "--rebuild")
    assert done.code == 2
    assert "{}: the ledger's line for {}/member.onnx cannot be written (".format(cache_of(bundle), bundle) in done.err
    assert done.err.endswith("; its plan is checked and can be used\n")
    assert written.read_text() == before  # not with half a line at its end
    assert node(nano_site, "validate", bundle).code == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 pages and 64 files."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path, leave: int) -> None:
    """Write a file until the disk is full, and cut its last bytes off again."""
    with contextlib.suppress(OSError), path.open("wb", 0) as stream:
        while True:
            stream.write(b"0" * 4096)
    os.truncate(str(path), path.stat().st_size - leave)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path, nano_site: List[str], disk: Path) -> None:
    """The old plan stays, wherever it is that the space ends; with enough of it the same command succeeds."""
    bundle = make_bundle(tmp_path / "hall", NANO)
    words = ["build", bundle, "--cache", str(disk)]
    assert node(nano_site, *words).code == 0
    before, codes, told = files_of(disk), [], ""
    for pages in range(12):
        fill(disk / "filler", 4096 * pages)
        done = node(nano_site, *words, "--rebuild")
        codes.append(done.code)
        told += done.err
        (disk / "filler").unlink()
        if done.code == 0:
            break
        assert re.search(r": .* cannot be written \(No space left on device; [\d,]+ bytes are free there\); ", done.err)
        left = files_of(disk)
        assert {path: left[path] for path in before if path.endswith((".json", ".plan"))}.items() <= left.items()
        assert node(nano_site, "validate", bundle, "--cache", str(disk)).code == 0
    assert set(codes[:-1]) == {2} and codes[-1] == 0 and len(codes) > 2
    assert "what a build needs cannot be written" in told and "the plan (" in told


@pytest.mark.slow
def test_a_disk_that_takes_no_more_files(tmp_path: Path, nano_site: List[str], disk: Path) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    words = ["build", bundle, "--cache", str(disk)]
    assert node(nano_site, *words).code == 0
    with contextlib.suppress(OSError):
        for number in range(64):
            (disk / "empty-{}".format(number)).touch()
    for spared, what in enumerate(("a folder for this build", "what a build needs")):
        before = files_of(disk)
        done = node(nano_site, *words, "--rebuild")
        assert done.code == 2
        assert ": {} cannot be written (No space left on device; ".format(what) in done.err
        assert files_of(disk) == before
        assert node(nano_site, "validate", bundle, "--cache", str(disk)).code == 0
        (disk / "empty-{}".format(spared)).unlink()


def test_cache_that_cannot_be_made(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    cache_of(bundle).write_text("a file")
    done = node(nano_site, "build", bundle)
    assert done.code == 2
    where = "{}: the directory for plans cannot be written (File exists; ".format(cache_of(bundle))
    assert where in done.err and "; make it writable, or name another directory (build: --cache, " in done.err
