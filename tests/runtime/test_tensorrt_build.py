"""`coformer-node build`: what it makes, what it leaves alone, and what it refuses.

On stand-ins for TensorRT and CUDA (see fakes/fake_tensorrt.py), in processes of their own.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

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
    cache_of,
    environment,
    files_of,
    ledger_of,
    make_bundle,
    make_site,
    node,
    plan_header,
    plans_of,
)


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
    (plan,) = plans_of(bundle)
    header = plan_header(str(plan))
    assert header["flags"] == []  # TF32 is off
    assert header["workspace"] == (64 << 20 if board is NANO else None)
    assert header["network_flags"] == 1  # explicit batch up to 10, strong types in 11
    checked = node(site, "validate", bundle)
    assert checked.out.endswith("4 files, 3 golden cases, worst difference 0 of 0.0001, 0 aggregators: fine\n")
    again = node(site, "build", bundle)
    assert again.code == 0 and again.out.startswith("member.onnx: was built already, 3 golden cases")
    assert plans_of(bundle) == [plan]


def test_ledger(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    assert node(nano_site, "build", bundle, "--rebuild").code == 0
    first, second = ledger_of(bundle)
    assert first["built"] and second["built"] and first["plan_sha256"] != second["plan_sha256"]
    assert [path.stem for path in plans_of(bundle)] == [second["plan_sha256"]] or len(plans_of(bundle)) == 2
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


def test_timing_cache_is_kept(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    (kept,) = cache_of(bundle).glob("*-timing.cache")
    assert kept.read_bytes() == b"8.2.1.8+"
    assert node(nano_site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8++"
    kept.write_bytes(b"of another version")
    assert node(nano_site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8+"


def test_timing_cache_is_handed_from_graph_to_graph(tmp_path: Path, nano_site: List[str]) -> None:
    """Each build adds to what the one before it left, so that the last one has the timings of all."""
    bundle = make_bundle(tmp_path / "hall", NANO, batches=(2, 4))
    assert node(nano_site, "build", bundle).code == 0
    (kept,) = cache_of(bundle).glob("*-timing.cache")
    assert kept.read_bytes() == b"8.2.1.8+++"
    assert node(nano_site, "build", bundle).code == 0
    assert kept.read_bytes() == b"8.2.1.8+++"
    plans_of(bundle)[1].write_bytes(b"damaged")
    assert node(nano_site, "build", bundle).code == 0
    assert kept.read_bytes() == b"8.2.1.8++++"
    assert node(nano_site, "build", bundle, "--rebuild").code == 0
    assert kept.read_bytes() == b"8.2.1.8+++++++"


def test_central_device_builds_its_aggregators_too(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", ORIN)
    bundle = make_bundle(tmp_path / "attic", ORIN, member=0)
    done = node(site, "build", bundle)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 8 and len(plans_of(bundle)) == 8
    assert node(site, "validate", bundle).out.endswith("7 aggregators: fine\n")


def test_a_plan_for_every_profile(tmp_path: Path, nano_site: List[str]) -> None:
    """Each is built, held against the golden vectors in whole batches, and loaded."""
    bundle = make_bundle(tmp_path / "hall", NANO, batches=(2, 4))
    done = node(nano_site, "build", bundle)
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["member.onnx", "member.2.onnx", "member.4.onnx"]
    assert all("3 golden cases" in line for line in done.out.splitlines()) and len(plans_of(bundle)) == 3
    assert "9 golden cases" in node(nano_site, "validate", bundle).out
    ones = np.ones((16, 3), np.float32)
    graph = bundles.member_graph(1, (2, 1, 4, 4), ones, TensorProto.FLOAT)
    wrong = make_bundle(tmp_path / "elsewhere" / "wrong", NANO, batches=(2,), files={"member.2.onnx": graph})
    done = node(nano_site, "build", wrong)
    assert done.code == 1 and "profile [2, 1, 4, 4]: golden case 0, 1 differs by" in done.err
    assert not plans_of(wrong)


def test_worker_on_a_board_answers(tmp_path: Path, nano_site: List[str], cluster_dirs: List[str]) -> None:
    from tests.runtime.nodes import EVERYONE, PIXELS, gathering, serving

    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    words = [sys.executable, "-m", "coformer_runtime", "serve", bundle, "--allow-root", "--exit-with-stdin"]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(nano_site))
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


def test_cache_elsewhere(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle, "--cache", str(tmp_path / "kept")).code == 0
    assert not cache_of(bundle).exists()
    assert node(nano_site, "validate", bundle, "--cache", str(tmp_path / "kept")).code == 0
    assert "plans are looked for in '{}'".format(cache_of(bundle)) in node(nano_site, "validate", bundle).err
    inside = node(nano_site, "build", bundle, "--cache", bundle + "/plans")
    assert (inside.code, inside.out) == (2, "")
    assert "plans would be kept inside the bundle, whose files are all listed; name a directory" in inside.err


def test_nothing_to_build(bundle_dir: Path, nano_site: List[str]) -> None:
    done = node(nano_site, "build", str(bundle_dir))
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
def test_plan_made_elsewhere_is_refused(
    tmp_path: Path, nano_site: List[str], changed: Dict[str, Any], reason: str
) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    other = make_site(tmp_path / "other", NANO._replace(**changed))
    done = node(other, "validate", bundle)
    assert done.code == 2
    assert "the plan was made elsewhere or otherwise: " + reason in done.err


def test_plan_of_other_options_is_refused(tmp_path: Path, nano_site: List[str]) -> None:
    assert node(nano_site, "build", make_bundle(tmp_path / "hall", NANO)).code == 0
    done = node(nano_site, "validate", make_bundle(tmp_path / "again", NANO, workspace_mb=128))
    assert done.code == 2
    assert '"workspace_mb": 64}, here is {"precision"' in done.err


def test_bundle_for_another_board_is_refused(tmp_path: Path, nano_site: List[str]) -> None:
    done = node(nano_site, "build", make_bundle(tmp_path / "newer", XAVIER))
    assert done.code == 2
    assert (
        "the graphs were made for TensorRT 8.5.2, here is 8.2.1.8; build the bundle for this board's target" in done.err
    )
    tx2 = make_site(tmp_path / "tx2", NANO._replace(gpu="NVIDIA Tegra X2", sm=62))
    done = node(tx2, "build", make_bundle(tmp_path / "hall", NANO))
    assert done.code == 2
    assert "the graphs were made for SM 5.3, the GPU 'NVIDIA Tegra X2' is SM 6.2" in done.err


def test_too_little_memory(tmp_path: Path, nano_site: List[str]) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO, needed_mb=10_000_000)
    done = node(nano_site, "build", bundle)
    assert done.code == 2
    assert (
        "10,000,000 MB of memory are needed to build, " in done.err
        and "stop other programs, the desktop first" in done.err
    )
    assert plans_of(bundle) == []


def test_memory_is_not_needed_for_what_is_there(tmp_path: Path, nano_site: List[str]) -> None:
    built = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", built).code == 0
    hungry = make_bundle(tmp_path / "again", NANO, needed_mb=10_000_000)
    assert node(nano_site, "build", hungry).code == 0
    for plan in plans_of(built):
        plan.write_bytes(b"damaged")
    assert "MB of memory are needed" in node(nano_site, "build", hungry).err


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
    tmp_path: Path, nano_site: List[str], behaviour: Dict[str, Any], code: int, said: str
) -> None:
    bundle = make_bundle(tmp_path / "hall", NANO)
    assert node(nano_site, "build", bundle).code == 0
    before = files_of(cache_of(bundle))
    done = node(make_site(tmp_path / "failing", NANO, behaviour), "build", bundle, "--rebuild")
    assert done.code == code
    assert said in done.err
    assert files_of(cache_of(bundle)) == before
    assert node(nano_site, "validate", bundle).code == 0


def test_names_of_nodes_where_the_parser_tells_them(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", ORIN, {"parse": "fail"})
    done = node(site, "build", make_bundle(tmp_path / "hall", ORIN))
    assert "node 'blocks.3.norm1' (LayerNormalization): no importer for it; node" in done.err


def test_golden_vectors_decide(tmp_path: Path, nano_site: List[str]) -> None:
    weight = bundles.member_weight(1)
    weight[0] += 1
    graph = bundles.member_graph(1, weight=weight, element=1)
    bundle = make_bundle(tmp_path / "hall", NANO, member_onnx=graph)
    done = node(nano_site, "build", bundle)
    assert done.code == 1
    assert "golden case 0 differs by " in done.err
    assert plans_of(bundle) == [] and list(cache_of(bundle).glob("*.json")) == []


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


def test_library_that_is_missing_or_too_old(tmp_path: Path, nano_site: List[str]) -> None:
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
