"""The command itself: help, exit codes, errors as text and as JSON, and the report of a bug."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coformer_compiler.cli import targets
from coformer_runtime.errors import CheckFailed, CoformerError
from tests.end_to_end.tiny import ROOT, coformerc, environment

COMMANDS = ("build", "targets", "inspect", "validate", "run", "bench")


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_fits_80_columns(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = coformerc(*words)
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    if words != ["--help"]:
        assert "--json" in outcome.out
    else:
        assert all(f"    {command} " in outcome.out for command in COMMANDS)


def test_help_answers_within_half_a_second() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "coformer_compiler", "--help"],
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0 and done.stdout.startswith(b"usage: coformerc")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.5


def test_light_commands_leave_heavy_libraries_alone() -> None:
    code = (
        "import sys; from coformer_compiler.cli import main; main(['targets']); "
        "print({'torch', 'timm', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_version() -> None:
    outcome = coformerc("--version")
    assert outcome.code == 0
    assert re.fullmatch(r"coformerc \d+\.\d+\.\d+\n", outcome.out)


@pytest.mark.parametrize(
    "words", [[], ["compile"], ["build", "--taget", "cpu"], ["run", "out"], ["inspect"]], ids=" ".join
)
def test_words_that_nobody_knows_exit_with_2_and_the_usage(words: list[str]) -> None:
    outcome = coformerc(*words)
    assert outcome.code == 2
    assert outcome.err.startswith("usage: coformerc")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes `coformerc targets` fail with an error."""

    def fail(error: BaseException) -> None:
        def raises(_options: object) -> int:
            raise error

        monkeypatch.setattr(targets, "_targets", raises)

    return fail


@pytest.mark.parametrize(("kind", "code"), [(CoformerError, 2), (CheckFailed, 1)])
def test_errors_have_exit_codes(failing, kind: type[CoformerError], code: int) -> None:
    failing(kind("it broke", "here", "mend it"))
    outcome = coformerc("targets")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", "error: here: it broke; mend it\n")
    outcome = coformerc("targets", "--json")
    assert outcome.code == code
    assert json.loads(outcome.out) == {"error": {"what": "it broke", "where": "here", "mend": "mend it"}}
    assert outcome.err == "error: here: it broke; mend it\n"


def test_our_bugs_exit_with_3_and_leave_a_report(failing) -> None:
    failing(StopIteration())
    outcome = coformerc("targets")
    assert (outcome.code, outcome.out) == (3, "")
    told = re.fullmatch(r"error: internal error \(StopIteration\); please send us (\S+)\n", outcome.err)
    assert told is not None
    report = Path(told[1])
    text = report.read_text(encoding="utf-8")
    report.unlink()
    assert text.startswith("coformerc ")
    assert "arguments: " in text and "Traceback" in text and "StopIteration" in text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_disk_is_no_bug_of_ours(failing, number: int) -> None:
    failing(OSError(number, "the system's words", "out/cache/boost"))
    outcome = coformerc("targets")
    assert outcome.code == 2
    assert outcome.err == (
        "error: file out/cache/boost: cannot be written (the system's words); make room or get the right to write "
        "there, then run the same command again\n"
    )


def test_an_interruption_says_how_to_go_on(failing) -> None:
    failing(KeyboardInterrupt())
    outcome = coformerc("targets")
    assert (outcome.code, outcome.err) == (130, "interrupted; the same command goes on from here\n")


def test_an_interruption_that_a_library_turned_into_an_error_of_its_own_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swallows(_options: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None
        return 0

    monkeypatch.setattr(targets, "_targets", swallows)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        outcome = coformerc("targets")
        assert (outcome.code, outcome.err) == (130, "interrupted; the same command goes on from here\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "coformer_compiler", "targets", "--json"],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    with process:
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_model_option_needs_a_value() -> None:
    outcome = coformerc("build", "--model", "timm:x", "--model-option", "depth")
    assert (outcome.code, outcome.err) == (2, "error: --model-option: 'depth' has no value; write KEY=VALUE\n")
