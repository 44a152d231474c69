"""Progress: what a terminal, a log file and a test see."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coformer_compiler.progress import Progress, RichProgress, SilentProgress, figures_text


def watched(progress: Progress) -> None:
    with progress.stage("boost", total=2) as boost:
        for n in range(2):
            with progress.stage(f"member {n}", total=4, done=1, unit="step") as training:
                for step in range(3):
                    training.advance(figures={"loss": 1 / (step + 1)})
            boost.advance()
        progress.note("joint phase [kept]")


def test_a_log_gets_one_line_for_each_stage_that_ended() -> None:
    log = io.StringIO()
    with RichProgress(Console(file=log, width=120)) as progress:
        watched(progress)
    lines = log.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "  member 0",
        "  member 1",
        "  joint phase [kept]",
        "boost",
    ]
    assert lines[0].startswith("  member 0: 4 steps, ") and lines[0].endswith(" s, loss 0.3333")


def test_a_terminal_gets_bars_with_loss_and_time_left() -> None:
    screen = io.StringIO()
    with RichProgress(Console(file=screen, force_terminal=True, width=160)) as progress:
        watched(progress)
        assert len(progress.bars.tasks) == 1, "the bars of inner stages go when the outer one ends"
    text = screen.getvalue()
    assert "boost" in text and "2/2" in text and "left" in text


def test_a_stage_that_fails_closes_and_says_nothing_of_success() -> None:
    log = io.StringIO()
    with RichProgress(Console(file=log)) as progress:
        with pytest.raises(ValueError, match="broken"), progress.stage("boost"):
            raise ValueError("broken")
        with progress.stage("next"):
            pass
    assert log.getvalue().splitlines()[0].startswith("next: ")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    watched(SilentProgress())
    assert capsys.readouterr() == ("", "")


def test_figures_are_short_and_whole_numbers_stay_whole() -> None:
    assert figures_text({"loss": 0.123456, "kept": 3}) == "loss 0.1235, kept 3"
