"""Progress of long work: nested stages with a bar, the latest figures and the time left.

    with RichProgress() as progress, progress.stage("boost", total=3) as boost:
        for n in range(3):
            with progress.stage(f"member {n}", total=200, unit="step") as training:
                for _ in range(200):
                    training.advance(figures={"loss": 0.12})
            boost.advance()

Functions take a `Progress` and never print.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class Stage(Protocol):
    """One piece of work that is under way."""

    def advance(self, amount: int = 1, figures: Mapping[str, float] | None = None) -> None:
        """`amount` more units are done; `figures` are the latest values to show, such as the loss."""


class Progress(Protocol):
    """Where work reports how far it is."""

    def stage(
        self, title: str, total: int | None = None, *, done: int = 0, unit: str = ""
    ) -> AbstractContextManager[Stage]:
        """Open a stage inside the one that is open now.

        Args:
            title: what is done, such as "member 0".
            total: how many units there are; None where nobody knows.
            done: how many are done already (resumed work).
            unit: what is counted, in the singular: "step", "image".
        """

    def note(self, text: str) -> None:
        """Say one line, such as "decompose: from the cache"."""


def figures_text(figures: Mapping[str, float]) -> str:
    """`{"loss": 0.12345, "steps": 3}` as "loss 0.1235, steps 3"."""
    return ", ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.4g}" for name, value in figures.items()
    )


class SilentProgress:
    """Says nothing."""

    @contextmanager
    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Stage]:
        """A stage that nobody watches."""
        yield _SilentStage()

    def note(self, text: str) -> None:
        """Drop the line."""


class _SilentStage:
    def advance(self, amount: int = 1, figures: Mapping[str, float] | None = None) -> None:
        pass


class RichProgress:
    """Bars on a terminal; elsewhere (CI, a file) one line for each stage at its end. To stderr by default."""

    def __init__(self, console: Console | None = None) -> None:
        """Bars appear on entry and stay, finished; nested ones go when the stage around them ends."""
        from rich.console import Console as RichConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self.console = console or RichConsole(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._open: list[_RichStage] = []

    def __enter__(self) -> RichProgress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    @contextmanager
    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Stage]:
        """A bar, or a line at the end."""
        indented = "  " * len(self._open) + title
        task = self.bars.add_task(indented, total=total, completed=done, unit=_plural(unit), figures="")
        stage = _RichStage(self.bars, task, done)
        self._open.append(stage)
        try:
            yield stage
        finally:
            self._open.pop()
            self._close(stage)
        if not self.console.is_terminal:
            self.console.print(stage.summary(indented, unit), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print the line above the bars."""
        self.console.print("  " * len(self._open) + text, markup=False, highlight=False, soft_wrap=True)

    def _close(self, stage: _RichStage) -> None:
        for inner in stage.inner:
            self.bars.remove_task(inner)
        self.bars.stop_task(stage.task)
        if self._open:
            self._open[-1].inner.append(stage.task)


class _RichStage:
    def __init__(self, bars: Any, task: TaskID, done: int) -> None:
        self.bars, self.task, self.done = bars, task, done
        self.inner: list[TaskID] = []
        self.figures: dict[str, float] = {}
        self.began = time.monotonic()

    def advance(self, amount: int = 1, figures: Mapping[str, float] | None = None) -> None:
        self.done += amount
        self.figures.update(figures or {})
        self.bars.update(self.task, advance=amount, figures=figures_text(self.figures))

    def summary(self, title: str, unit: str) -> str:
        parts = [f"{self.done:,} {_plural(unit)}"] if unit and self.done else []
        parts.append(f"{time.monotonic() - self.began:.1f} s")
        if self.figures:
            parts.append(figures_text(self.figures))
        return f"{title}: {', '.join(parts)}"


def _plural(unit: str) -> str:
    return unit and unit + "s"
