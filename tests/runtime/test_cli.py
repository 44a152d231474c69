"""The command line: exit codes, texts, and how a server starts and stops."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

import coformer_runtime
from coformer_runtime.cli import main
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.runtime import bundles

SOURCES = str(Path(coformer_runtime.__file__).parents[1])


def command(*words: str) -> List[str]:
    return [sys.executable, "-m", "coformer_runtime", *words]


def environment() -> dict:
    return dict(os.environ, PYTHONPATH=SOURCES)


def test_version_and_help(capsys: pytest.CaptureFixture) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == "coformer-node 0.1.0\n"
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("serve", "central", "validate", "build", "doctor", "version"))


@pytest.mark.parametrize("words", [[], ["fly"], ["serve"], ["central", "x", "--deadline-ms", "soon"]])
def test_usage_errors(words: List[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_validate(bundle_dir: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["validate", str(bundle_dir)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r": 11 files, 3 golden cases, worst difference \S+ of 0.0001, 7 aggregators: fine\n$", shown)
    assert main(["validate", str(bundle_dir), "--target", "jetson-nano"]) == 2
    assert "error: {}: the bundle is for target 'cpu', not 'jetson-nano'; ship".format(bundle_dir) in (
        capsys.readouterr().err
    )


def test_validate_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weight = bundles.member_weight(1)
    weight[0] += 1
    directory = bundles.make_bundle(tmp_path, 1, graph=bundles.member_graph(1, weight=weight))
    assert main(["validate", directory]) == 1
    shown = capsys.readouterr().err
    assert re.search(r"golden case 0 differs by \S+, the tolerance is 0.0001; use the engine version", shown)


def test_exit_codes(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail_with(error: BaseException) -> int:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("coformer_runtime.alternatives.open_bundle", fail)
        return main(["validate", str(bundle_dir)])

    assert fail_with(CheckFailed("a", "b", "c")) == 1
    assert capsys.readouterr().err == "error: b: a; c\n"
    assert fail_with(CoformerError("a", "b", "c")) == 2
    assert fail_with(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert fail_with(ZeroDivisionError("oh")) == 3
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: oh" in shown and "please report the trace above" in shown


@pytest.mark.parametrize("arguments", [["--threads", "-1"], ["--listen", "0.0.0.0:0"], ["--listen", "nowhere"]])
def test_serve_refuses(bundle_dir: Path, arguments: List[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", str(bundle_dir), "--allow-root", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("word", ["serve", "central"])
def test_root_is_refused(
    bundle_dir: Path, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main([word, str(bundle_dir), "--listen", "127.0.0.1:0"]) == 2
    assert capsys.readouterr().err == (
        "error: coformer-node: a node needs no rights of root; "
        "start it as a user of its own (runtime/systemd has unit files), or pass --allow-root\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_listens_and_stops(bundle_dir: Path, number: int) -> None:
    words = command("serve", str(bundle_dir), "--allow-root", "--listen", "127.0.0.1:0", "--threads", "1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert re.match(rb"listening 127\.0\.0\.1:\d+\n", process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_tensorrt_bundle_without_a_plan_is_refused(tmp_path: Path) -> None:
    from coformer_runtime.manifest import EngineSpec

    files = bundles.member_files(1)
    files["recipe.json"] = b"{}\n"
    manifest = bundles.member_manifest(1, files)._replace(
        target="jetson-nano", engine=EngineSpec("tensorrt", "8.2.1", "member.onnx", "float32", "recipe.json")
    )
    directory = bundles.write_bundle(tmp_path, manifest, files)
    done = subprocess.run(
        command("serve", directory, "--allow-root"), stderr=subprocess.PIPE, env=environment(), check=False
    )
    assert done.returncode == 2
    assert b"no plan was built from them; run 'coformer-node build' on this board" in done.stderr


def best_of(count: int, words: List[str]) -> float:
    """Seconds of a processor that the command takes, which other work on the machine hardly changes."""
    times = []
    for _ in range(count):
        before = os.times()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment())
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times)


def test_start_is_fast() -> None:
    bare = best_of(5, [sys.executable, "-c", "pass"])
    assert best_of(5, [sys.executable, "-c", "import coformer_runtime"]) - bare < 0.15
    assert best_of(5, command("--help")) - bare < 0.3


def test_nothing_heavy_is_imported_early() -> None:
    code = "import sys, coformer_runtime.cli as c; c.parser(); print([m for m in ('numpy', 'grpc', 'google.protobuf', "
    code += "'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(), check=True)
    assert done.stdout == b"[]\n"
    assert np.__name__ in sys.modules
