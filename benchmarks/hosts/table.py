"""What was found on three hosts, as rows: for people, and for the page."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.hosts.run import Course
from benchmarks.kit.show import number

__all__ = ["HEADS", "rows", "show"]


def show(course: Course, console: Console) -> None:
    """The table for people."""
    table = Table(title=f"Three hosts on {course.plan.transport}", title_justify="left")
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if place else "left")
    for cells in rows(course):
        table.add_row(*cells)
    console.print(table)


HEADS = (
    *("", "requests", "not answered", "cores", "a second"),
    *("p50, ms", "p99, ms", "longest, s", "by host"),
)


def rows(course: Course) -> list[tuple[str, ...]]:
    """A row a part."""
    return [
        (
            part.name,
            f"{part.requests:,}",
            f"{part.requests - part.answered:,}",
            f"{part.cores:.1f}",
            number(part.rate),
            number(part.p50_ms),
            number(part.p99_ms),
            f"{part.longest_s:.1f}",
            " ".join(f"{share:.0%}" for share in part.shares.values()),
        )
        for part in course.parts
    ]
