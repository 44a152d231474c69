"""`coformer-node build`: what it makes, what it leaves alone, and what it refuses.

On stand-ins for TensorRT and CUDA (see fakes/fake_tensorrt.py), in processes of their own.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
from onnx import TensorProto

from coformer_runtime.bundle import open_bundle
from coformer_runtime.errors import CoformerError
from coformer_runtime.tensorrt.recipe import load_recipe
from tests.runtime import bundles
from tests.runtime.boards import (
    BOARDS,
    NANO,
    ORIN,
    XAVIER,
    Board,
    Done,
    environment,
    make_bundle,
    make_site,
    node,
    plan_header,
)


@pytest.fixture
def site(tmp_path: Path) -> List[str]:
    return make_site(tmp_path / "site", NANO)


def cache_of(bundle: str) -> Path:
    return Path(bundle).parent / ".coformer-engines"


def files_of(directory: Path) -> Dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def plans(bundle: str) -> List[Path]:
    return sorted(cache_of(bundle).glob("*.plan"))


def ledger(bundle: str) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in (cache_of(bundle) / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.tensorrt)
def test_builds_checks_keeps_and_serves(tmp_path: Path, board: Board) -> None:
    site = make_site(tmp_path / "site", board)
    bundle = make_bundle(tmp_path / "hall", board)
    before = files_of(Path(bundle))
    assert "no plan was built from them; run 'coformer-node build'" in node(site, "validate", bundle).err
    done = node(site, "build", bundle)
    assert done.code == 0, done.err
    assert done.out.startswith("member.onnx: built in ") and " 3 golden cases, worst difference 0" in done.out
    assert files_of(Path(bundle)) == before
    (plan,) = plans(bundle)
    header = plan_header(str(plan))
    assert header["flags"] == []  # TF32 is off
    assert header["workspace"] == (64 << 20 if board is NANO else None)
    assert header["network_flags"] == 1  # explicit batch up to 10, strong types in 11
    checked = node(site, "validate", bundle)
    assert checked.out.endswith("4 files, 3 golden cases, worst difference 0 of 0.0001, 0 aggregators: fine\n")
    again = node(site, "build", bundle)
    assert again.code == 0 and again.out.startswith("member.onnx: was built already, 3 golden cases")
    assert plans(bundle) == [plan]


def test_ledger(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    assert node(site, "build", bundle, "--rebuild").code == 0
    first, second = ledger(bundle)
    assert first["built"] and second["built"] and first["plan_sha256"] != second["plan_sha256"]
    assert [path.stem for path in plans(bundle)] == [second["plan_sha256"]] or len(plans(bundle)) == 2
    assert first["key"] == {
        "tensorrt": "8.2.1.8",
        "device": "NVIDIA Tegra X1",
        "sm": 53,
        "cuda": "10.2",
        "graph_sha256": open_bundle(bundle).sha256("member.onnx"),
        "options": '{"precision": "float32", "strongly_typed": false, "workspace_mb": 64}',
    }
    assert first["golden"] == {"cases": 3, "worst": 0.0, "tolerance": 1e-4}
    assert 0 < first["latency_ms"]["best"] <= first["latency_ms"]["median"] <= first["latency_ms"]["p90"]
    assert (first["device"], first["target"], first["graph"]) == ("hall", "jetson-nano", "member.onnx")


def test_timing_cache_is_kept(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    (kept,) = cache_of(bundle).glob("*-timing.cache")
    assert kept.read_bytes() == b"8.2.1.8+"
    assert node(site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8++"
    kept.write_bytes(b"of another version")
    assert node(site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8+"


def test_timing_cache_is_handed_from_graph_to_graph(tmp_path: Path, site: List[str]) -> None:
    """Each build adds to what the one before it left, so that the last one has the timings of all."""
    bundle = make_bundle(tmp_path / "hall", NANO, batches=(2, 4))
    assert node(site, "build", bundle).code == 0
    (kept,) = cache_of(bundle).glob("*-timing.cache")
    assert kept.read_bytes() == b"8.2.1.8+++"
    assert node(site, "build", bundle).code == 0
    assert kept.read_bytes() == b"8.2.1.8+++"
    plans(bundle)[1].write_bytes(b"damaged")
    assert node(site, "build", bundle).code == 0
    assert kept.read_bytes() == b"8.2.1.8++++"
    assert node(site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8+++++++"


def test_central_device_builds_its_aggregators_too(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", ORIN)
    bundle = make_bundle(tmp_path / "attic", ORIN, member=0)
    done = node(site, "build", bundle)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 8 and len(plans(bundle)) == 8
    assert node(site, "validate", bundle).out.endswith("7 aggregators: fine\n")


def test_a_plan_for_every_profile(tmp_path: Path, site: List[str]) -> None:
    """Each is built, held against the golden vectors in whole batches, and loaded."""
    bundle = make_bundle(tmp_path / "hall", NANO, batches=(2, 4))
    done = node(site, "build", bundle)
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["member.onnx", "member.2.onnx", "member.4.onnx"]
    assert all("3 golden cases" in line for line in done.out.splitlines()) and len(plans(bundle)) == 3
    assert "9 golden cases" in node(site, "validate", bundle).out
    ones = np.ones((16, 3), np.float32)
    graph = bundles.member_graph(1, (2, 1, 4, 4), ones, TensorProto.FLOAT)
    wrong = make_bundle(tmp_path / "elsewhere" / "wrong", NANO, batches=(2,), files={"member.2.onnx": graph})
    done = node(site, "build", wrong)
    assert done.code == 1 and "profile [2, 1, 4, 4]: golden case 0, 1 differs by" in done.err
    assert not plans(wrong)


def test_worker_on_a_board_answers(tmp_path: Path, site: List[str], cluster_dirs: List[str]) -> None:
    from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving

    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    words = [sys.executable, "-m", "coformer_runtime", "serve", bundle, "--allow-root", "--exit-with-stdin"]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(site))
    with worker, serving(cluster_dirs[2]) as desk:
        assert worker.stdout is not None and worker.stdin is not None
        address = worker.stdout.readline().decode().split()[1]
        with gathering(cluster_dirs[0], [address, desk]) as central:
            answer = central.answer(PIXELS)
            again = central.answer(PIXELS)
        worker.stdin.close()
    assert abs(answer.logits - bundles.answer_of(EVERYONE, PIXELS)).max() < 1e-3
    assert (again.logits == answer.logits).all() and worker.returncode == 0


def test_pixels_enter_as_the_graph_wants_them(tmp_path: Path) -> None:
    """TensorRT takes uint8 inputs from 8.5 on; older graphs want float32, which the engine casts to."""
    site = make_site(tmp_path / "site", XAVIER)
    bundle = make_bundle(tmp_path / "hall", XAVIER, member_onnx=bundles.member_graph(1))
    assert node(site, "build", bundle).code == 0
    assert node(site, "validate", bundle).code == 0
    refused = node(make_site(tmp_path / "nano", NANO), "build", make_bundle(
        tmp_path / "old", NANO, member_onnx=bundles.member_graph(1)
    ))  # fmt: skip
    assert refused.code == 1 and "unsupported data type UINT8" in refused.err


def test_cache_elsewhere(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle, "--cache", str(tmp_path / "kept")).code == 0
    assert not cache_of(bundle).exists()
    assert node(site, "validate", bundle, "--cache", str(tmp_path / "kept")).code == 0
    assert "plans are looked for in '{}'".format(cache_of(bundle)) in node(site, "validate", bundle).err
    inside = node(site, "build", bundle, "--cache", bundle + "/plans")
    assert (inside.code, inside.out) == (2, "")
    assert "plans would be kept inside the bundle, whose files are all listed; name a directory" in inside.err


def test_nothing_to_build(bundle_dir: Path, site: List[str]) -> None:
    done = node(site, "build", str(bundle_dir))
    assert done.code == 2
    assert "its engine is onnxruntime, which runs the graph as it is; start it with 'coformer-node serve'" in done.err


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tensorrt": "8.2.0.6"}, "for TensorRT 8.2.1.8, here is 8.2.0.6; run 'coformer-node build' on this board"),
        ({"gpu": "NVIDIA Tegra X2"}, "for the GPU NVIDIA Tegra X1, here is NVIDIA Tegra X2"),
        ({"sm": 62}, "for SM 53, here is 62"),
        ({"cuda": (10, 0)}, "for CUDA 10.2, here is 10.0"),
    ],
)
def test_plan_made_elsewhere_is_refused(tmp_path: Path, site: List[str], changed: Dict[str, Any], reason: str) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    other = make_site(tmp_path / "other", NANO._replace(**changed))
    done = node(other, "validate", bundle)
    assert done.code == 2
    assert "the plan was made elsewhere or otherwise: " + reason in done.err


def test_plan_of_other_options_is_refused(tmp_path: Path, site: List[str]) -> None:
    assert node(site, "build", make_bundle(tmp_path / "hall", NANO)).code == 0
    done = node(site, "validate", make_bundle(tmp_path / "again", NANO, workspace_mb=128))
    assert done.code == 2
    assert '"workspace_mb": 64}, here is {"precision"' in done.err


def test_bundle_for_another_board_is_refused(tmp_path: Path, site: List[str]) -> None:
    done = node(site, "build", make_bundle(tmp_path / "newer", XAVIER))
    assert done.code == 2
    assert (
        "the graphs were made for TensorRT 8.5.2, here is 8.2.1.8; build the bundle for this board's target" in done.err
    )
    tx2 = make_site(tmp_path / "tx2", NANO._replace(gpu="NVIDIA Tegra X2", sm=62))
    done = node(tx2, "build", make_bundle(tmp_path / "hall", NANO))
    assert done.code == 2
    assert "the graphs were made for SM 5.3, the GPU 'NVIDIA Tegra X2' is SM 6.2" in done.err


def test_too_little_memory(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO, needed_mb=10_000_000)
    done = node(site, "build", bundle)
    assert done.code == 2
    assert (
        "10,000,000 MB of memory are needed to build, " in done.err
        and "stop other programs, the desktop first" in done.err
    )
    assert plans(bundle) == []


def test_memory_is_not_needed_for_what_is_there(tmp_path: Path, site: List[str]) -> None:
    built = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", built).code == 0
    hungry = make_bundle(tmp_path / "again", NANO, needed_mb=10_000_000)
    assert node(site, "build", hungry).code == 0
    for plan in plans(built):
        plan.write_bytes(b"damaged")
    assert "MB of memory are needed" in node(site, "build", hungry).err


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        (
            {"parse": "fail"},
            1,
            "TensorRT 8.2.1.8 does not take it: node '7': no importer for it; node '7': second; build",
        ),
        ({"build": "fail"}, 1, "cannot build it: Could not find any implementation for node {ForeignNode[...]}.; if"),
        (
            {"build": "kill"},
            1,
            "the process that built it was killed, most likely for want of memory; it said: nothing",
        ),
        ({"build": "raise"}, 1, "exit code 1; it said: Traceback"),
    ],
)
def test_failures_of_the_library(
    tmp_path: Path, site: List[str], behaviour: Dict[str, Any], code: int, said: str
) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    done = node(make_site(tmp_path / "failing", NANO, behaviour), "build", bundle, "--rebuild")
    assert done.code == code
    assert said in done.err
    assert files_of(cache_of(bundle)) == before
    assert node(site, "validate", bundle).code == 0


def test_names_of_nodes_where_the_parser_tells_them(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", ORIN, {"parse": "fail"})
    done = node(site, "build", make_bundle(tmp_path / "hall", ORIN))
    assert "node 'blocks.3.norm1' (LayerNormalization): no importer for it; node" in done.err


def test_golden_vectors_decide(tmp_path: Path, site: List[str]) -> None:
    weight = bundles.member_weight(1)
    weight[0] += 1
    graph = bundles.member_graph(1, weight=weight, element=1)
    bundle = make_bundle(tmp_path / "hall", NANO, member_onnx=graph)
    done = node(site, "build", bundle)
    assert done.code == 1
    assert "golden case 0 differs by " in done.err
    assert plans(bundle) == [] and list(cache_of(bundle).glob("*.json")) == []


def test_kill_leaves_no_half_plan(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    slow = make_site(tmp_path / "slow", NANO, {"build": 60})
    words = [sys.executable, "-m", "coformer_runtime", "build", bundle, "--rebuild"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment(slow)) as parent:
        child = _child_of(parent.pid)
        busy = node(site, "build", bundle)
        assert busy.code == 2 and "another build is running here; wait until it has ended" in busy.err
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < until, "the child outlives its parent"
        time.sleep(0.02)
    left = {path: content for path, content in files_of(cache_of(bundle)).items() if not path.startswith("building-")}
    assert left == before
    assert node(site, "validate", bundle).code == 0
    (cache_of(bundle) / "half.plan").write_bytes(b"half")
    assert node(site, "build", bundle).code == 0
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
def test_full_disk_leaves_the_old_plan(tmp_path: Path, site: List[str], nearly: bool) -> None:
    """A limit on the size of files stands in for the disk: the same OSError at the same call."""
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    small = make_site(tmp_path / "small", NANO)
    limit = plans(bundle)[0].stat().st_size - 20 if nearly else 20
    with Path(small[0], "tensorrt.py").open("a") as stream:
        stream.write("\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n".format(limit))
    done = node(small, "build", bundle, "--rebuild")
    assert done.code == 2
    assert re.search(r"building-\w+/0: the plan \([\d,]+ bytes\) cannot be written " + NO_ROOM_FOR_THE_FILE, done.err)
    assert files_of(cache_of(bundle)) == before
    assert node(site, "validate", bundle).code == 0


NO_ROOM = (
    r"[\d,]+ bytes are free there\); free some space, or name another directory "
    r"\(build: --cache, profile: -o\); what was built before is as it was\n$"
)
NO_ROOM_FOR_THE_FILE = r"\(File too large; " + NO_ROOM


def limited(site: List[str], limit: int, *words: str) -> Done:
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
        env=environment(site),
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("limit", [0, 20])
def test_full_disk_from_the_start(tmp_path: Path, site: List[str], limit: int) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    done = limited(site, limit, "build", bundle, "--rebuild")
    assert (done.code, done.out) == (2, "")
    assert re.search(r"building-\w+/0: what a build needs cannot be written " + NO_ROOM_FOR_THE_FILE, done.err)
    assert files_of(cache_of(bundle)) == before
    assert node(site, "validate", bundle).code == 0


def test_full_disk_before_the_ledgers_line(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(site, "build", bundle).code == 0
    written = cache_of(bundle) / "ledger.jsonl"
    written.write_text(written.read_text() * 100)
    before = written.read_text()
    done = limited(site, written.stat().st_size + 20, "build", bundle, "--rebuild")
    assert done.code == 2
    assert "{}: the ledger's line for {}/member.onnx cannot be written (".format(cache_of(bundle), bundle) in done.err
    assert done.err.endswith("; its plan is checked and can be used\n")
    assert written.read_text() == before  # not with half a line at its end
    assert node(site, "validate", bundle).code == 0


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
def test_a_disk_that_is_really_full(tmp_path: Path, site: List[str], disk: Path) -> None:
    """The old plan stays, wherever it is that the space ends; with enough of it the same command succeeds."""
    bundle = make_bundle(tmp_path / "hall", NANO)
    words = ["build", bundle, "--cache", str(disk)]
    assert node(site, *words).code == 0
    before, codes, told = files_of(disk), [], ""
    for pages in range(12):
        fill(disk / "filler", 4096 * pages)
        done = node(site, *words, "--rebuild")
        codes.append(done.code)
        told += done.err
        (disk / "filler").unlink()
        if done.code == 0:
            break
        assert re.search(r": .* cannot be written \(No space left on device; [\d,]+ bytes are free there\); ", done.err)
        left = files_of(disk)
        assert {path: left[path] for path in before if path.endswith((".json", ".plan"))}.items() <= left.items()
        assert node(site, "validate", bundle, "--cache", str(disk)).code == 0
    assert set(codes[:-1]) == {2} and codes[-1] == 0 and len(codes) > 2
    assert "what a build needs cannot be written" in told and "the plan (" in told


@pytest.mark.slow
def test_a_disk_that_takes_no_more_files(tmp_path: Path, site: List[str], disk: Path) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    words = ["build", bundle, "--cache", str(disk)]
    assert node(site, *words).code == 0
    with contextlib.suppress(OSError):
        for number in range(64):
            (disk / "empty-{}".format(number)).touch()
    for spared, what in enumerate(("a folder for this build", "what a build needs")):
        before = files_of(disk)
        done = node(site, *words, "--rebuild")
        assert done.code == 2
        assert ": {} cannot be written (No space left on device; ".format(what) in done.err
        assert files_of(disk) == before
        assert node(site, "validate", bundle, "--cache", str(disk)).code == 0
        (disk / "empty-{}".format(spared)).unlink()


def test_cache_that_cannot_be_made(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    cache_of(bundle).write_text("a file")
    done = node(site, "build", bundle)
    assert done.code == 2
    where = "{}: the directory for plans cannot be written (File exists; ".format(cache_of(bundle))
    assert where in done.err and "; make it writable, or name another directory (build: --cache, " in done.err


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ({"format": "coformer-recipe/2"}, "the format is 'coformer-recipe/2', this runtime reads 'coformer-recipe/1'"),
        ({"workspace": 3}, "unknown key 'workspace' (did you mean 'workspace_mb'?)"),
        ({"needed_mb": "much"}, "'needed_mb' must be an integer of at least 0, not \"much\""),
        ({"workspace_mb": 0}, "'workspace_mb' must be an integer of at least 1, not 0"),
        ({"strongly_typed": 1}, "'strongly_typed' must be true or false, not 1"),
        ({"precision": "float8"}, "'precision' is 'float8', known are float32, float16, int8"),
        ({"graph": "other.onnx"}, "'graph' is 'other.onnx', the manifest says 'member.onnx'"),
        ({"engine": {"kind": "tensorrt", "version": "new", "sm": 53}}, "'engine.version' is 'new', no version"),
        ({"engine": {"kind": "onnx", "version": "8.2.1", "sm": 53}}, "'engine.kind' is not 'tensorrt'"),
        ({"timing_cache": "../t"}, "'timing_cache' names the path '../t', which is not a plain relative path"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, recipe: Dict[str, Any], what: str) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "hall", NANO, **recipe))
    with pytest.raises(CoformerError) as caught:
        load_recipe(bundle)
    assert caught.value.what.startswith(what)
    assert caught.value.where == bundle.file("recipe.json")


def test_library_that_is_missing_or_too_old(tmp_path: Path, site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.8: cannot open shared object file')")
    done = node([str(empty)], "build", bundle)
    assert done.code == 2
    assert "TensorRT cannot be imported (libnvinfer.so.8: cannot open" in done.err and "python3-libnvinfer" in done.err
    old = node(make_site(tmp_path / "old", NANO._replace(tensorrt="8.0.1.6")), "build", bundle)
    assert old.code == 2
    assert "TensorRT is 8.0.1.6, the oldest that is supported is 8.2; install JetPack 4.6.1 or later" in old.err
