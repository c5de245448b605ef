"""A report as tables for people: figures, comparisons with what was wanted, the machine."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.kit.rounds import Comparison, Report

__all__ = [
    "machine_line",
    "met_sign",
    "number",
    "show",
    "spread",
    "versions_line",
    "wanted",
    "with_unit",
]


def show(report: Report, console: Console) -> None:
    """Print what there is of it; an empty part is left out."""
    if report.figures:
        table = _table("Figures", "measured", "whose", right=("median", "spread", "unit"))
        for it in report.figures:
            row = (it.what, it.who, number(it.median), spread(it.least, it.most), it.unit)
            table.add_row(*map(escape, row))
        console.print(table)
    if report.comparisons:
        table = _table(
            "Comparisons, round by round",
            *("compared", "whose", "against"),
            right=("median", "spread", "wanted", "met"),
        )
        for pair in report.comparisons:
            cells = [pair.what, pair.who, pair.against, with_unit(pair.ratio, pair.unit)]
            cells += [spread(pair.least, pair.most), wanted(pair), met_sign(pair)]
            style = {True: "green", False: "red", None: ""}[pair.met]
            table.add_row(*map(escape, cells), style=style)
        console.print(table)
    for note in report.notes:
        console.print(f"· {note}", markup=False, highlight=False)
    console.print(machine_line(report.machine), markup=False, highlight=False)
    if report.versions:
        console.print(versions_line(report.versions), markup=False, highlight=False)


def number(value: float) -> str:
    """Three digits that matter; whole thousands with commas."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995 or value == 0:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.0995 else f"{value:.2g}"


def with_unit(value: float, unit: str) -> str:
    """`1.43×`, `+0.82 ms`: a ratio, or the difference in that unit."""
    if unit == "×":
        return number(value) + unit
    return f"{'+' if value > 0 else ''}{number(value)} {unit}"


def spread(least: float, most: float) -> str:
    """The extremes of the rounds."""
    return f"{number(least)} – {number(most)}"


def wanted(comparison: Comparison) -> str:
    """`≥ 1.40×`; empty where nothing was promised."""
    if comparison.relation is None or comparison.wanted is None:
        return ""
    sign = {">=": "≥", "<=": "≤"}[comparison.relation]
    return f"{sign} {with_unit(comparison.wanted, comparison.unit)}"


def met_sign(comparison: Comparison) -> str:
    """✓ as wanted, ✗ missed, nothing where nothing was promised."""
    return {True: "✓", False: "✗", None: ""}[comparison.met]


def machine_line(machine: dict[str, Any]) -> str:
    """Where it was measured, and how long that took."""
    parts = []
    if "cores" in machine:
        parts.append(f"{machine['cores']} cores")
    parts += [str(machine[key]) for key in ("processor", "machine", "gpu") if machine.get(key)]
    if "memory_gb" in machine:
        parts.append(f"{machine['memory_gb']:.0f} GB")
    if "python" in machine:
        parts.append(f"Python {machine['python']}")
    if "others" in machine:
        parts.append(f"{machine['others']:.0%} of the cores' time went to other work")
    if "seconds" in machine:
        parts.append(f"took {machine['seconds']:.0f} s")
    return ", ".join(parts)


def versions_line(versions: dict[str, str]) -> str:
    """`consonance 0.1.0, onnxruntime 1.20.1`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _table(title: str, *left: str, right: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="left" if name in ("unit", "met") else "right")
    return table
