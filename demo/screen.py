"""What the demonstration shows: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from benchmarks.kit.measure import Gain
from demo.results import Results

__all__ = ["Screen", "first_of", "interval"]

WIDTH = 110


class Screen:
    """Everything that goes to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        width = None if sys.stdout.isatty() else WIDTH
        self.console = console or Console(width=width, highlight=False)
        self.start = time.monotonic()
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    @property
    def live(self) -> bool:
        """True on a terminal that can redraw."""
        return self.console.is_terminal

    def title(self, text: str) -> None:
        """A new chapter."""
        self.console.print()
        self.console.rule(f"[bold]{escape(text)}", align="left")

    def say(self, text: str, style: str = "") -> None:
        """One line, with the seconds since the start."""
        seconds = time.monotonic() - self.start
        clock = f"{int(seconds // 60)}:{seconds % 60:04.1f}"
        line = f"[dim]{clock:>7}[/]  {escape(text)}"
        # A file or a log is not wrapped: one event, one line.
        self.console.print(line, style=style or None, soft_wrap=not self.live)

    @contextlib.contextmanager
    def bars(self) -> Iterator[None]:
        """Room for bars; they vanish at the end, what was said stays."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=36),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        with progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None
                self._bars.clear()

    def bar(self, name: str, done: float, total: float | None, text: str = "") -> None:
        """Draw or move the bar `name`."""
        if self._progress is None:
            return
        label = escape(text or name)
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(label, total=total)
        self._progress.update(self._bars[name], completed=done, total=total, description=label)

    @contextlib.contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar for one job; the block gets a function that hears how many more are done."""
        begin, done = time.monotonic(), 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            self.bar(what, done, total)

        with self.bars():
            more(0)
            yield more
        self.say(f"{what}: {total:,} in {time.monotonic() - begin:.1f} s")

    def table(self, results: Results) -> None:
        """Before and after."""
        table = Table(
            title=f"{results.base.figures.queries:,} held-out queries", title_justify="left"
        )
        table.add_column("route")
        for measure in ("recall@1", "MRR@10"):
            table.add_column(f"{measure} (gain)\n95 % interval", justify="right", no_wrap=True)
        table.add_column("routed", justify="right")
        for it in results.measured:
            recall, mrr = results.gains(it)
            base = it is results.base
            name = {"base": "base model", "auto": "auto"}.get(it.label, f"{it.skill} ({it.label})")
            table.add_row(
                name,
                _cell(it.figures.recall, None if base else recall),
                _cell(it.figures.mrr, None if base else mrr),
                f"{it.routed:.0%}",
            )
        self.console.print(table)


def first_of(error: Exception) -> Exception:
    """What went wrong first, where several things did at once."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _cell(figure: float, gain: Gain | None) -> str:
    """A figure, and below it what was gained: narrow enough for any terminal."""
    if gain is None:
        return f"{figure:.3f}"
    return f"{figure:.3f} ({gain.mean:+.3f})\n{gain.low:+.3f} to {gain.high:+.3f}"


def interval(gain: Gain) -> str:
    """`+0.042 (+0.030 to +0.055)`."""
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
