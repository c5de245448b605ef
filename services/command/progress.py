"""A bar on standard error, where somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["Tell", "counting"]

Tell = Callable[[int, int], None]
"""Told how many more are done, and how many bytes of the input they took."""


class _Rate(ProgressColumn):
    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def render(self, task: Task) -> Text:
        done = int(task.fields.get("items", 0))
        rate = done / task.elapsed if task.elapsed else 0.0
        return Text(f"{done:,} {self._what}, {rate:,.0f} a second")


@contextmanager
def counting(what: str, size: int | None) -> Iterator[Tell]:
    """Count `what`; with the `size` of the input in bytes the bar says how much is left."""
    console = Console(stderr=True)
    times = () if size is None else (TimeRemainingColumn(),)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Rate(what),
        TimeElapsedColumn(),
        *times,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        job = bar.add_task("", total=size, items=0)
        count = 0

        def tell(more: int, read: int) -> None:
            nonlocal count
            count += more
            bar.update(job, advance=read, items=count)

        yield tell
