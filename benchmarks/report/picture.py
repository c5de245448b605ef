"""A benchmark's ratios as bars: SVG with text as text, in the reader's colours, light or dark."""

from __future__ import annotations

import io
import re
import textwrap
from typing import Any

from benchmarks.kit.rounds import Comparison, Report
from benchmarks.kit.show import number
from benchmarks.report.page import loses

__all__ = ["LIGHT", "draw", "in_colours"]

LIGHT = {"paper": "#ffffff", "ink": "#1c2330", "soft": "#5d6778", "rule": "#dfe3ea"} | {
    "good": "#0b7a75",
    "bad": "#c2410c",
    "plain": "#8a94a6",
}
DARK = {"paper": "#1e2129", "ink": "#e6e9ef", "soft": "#a3acbb", "rule": "#3a4150"} | {
    "good": "#4fb8b1",
    "bad": "#f0884f",
    "plain": "#7d8798",
}
ROW = 0.56
"""Inches."""


def draw(report: Report, title: str) -> str | None:
    """One bar a ratio, from 1 (the peer) on a logarithmic scale; None where there is no ratio.

    A bar is what was found, the thin line on it its spread, the short thick one what is wanted.
    The picture has a ground of its own, so that it is legible on any page.
    """
    rows = [it for it in report.comparisons if it.unit == "×" and min(it.least, it.ratio) > 0]
    if not rows:
        return None
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": report.name,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        height = 1.15 + ROW * len(rows)
        figure = Figure(figsize=(8.6, height), facecolor=LIGHT["paper"])
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.41, 0.5 / height, 0.49, ROW * len(rows) / height))
        _bars(axes, rows)
        place = (0.02, 1 - 0.4 / height)
        figure.text(*place, title, color=LIGHT["ink"], size=12, weight="bold")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return in_colours(stream.getvalue())


def _bars(axes: Any, rows: list[Comparison]) -> None:
    places = list(range(len(rows)))[::-1]
    for place, row in zip(places, rows, strict=True):
        tone = LIGHT["plain"] if row.met is None else LIGHT["bad" if loses(row) else "good"]
        axes.barh(place, row.ratio - 1, left=1, height=0.46, color=tone)
        axes.plot([row.least, row.most], [place, place], color=LIGHT["ink"], linewidth=1)
        if row.wanted is not None:
            ends = [place - 0.36, place + 0.36]
            axes.plot([row.wanted] * 2, ends, color=LIGHT["ink"], linewidth=2.5)
        edge = max(row.most, row.ratio, row.wanted or 0.0, 1.0)
        axes.annotate(
            f"{number(row.ratio)}×",
            (edge, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            size=10,
            color=LIGHT["ink"],
        )
    axes.axvline(1, color=LIGHT["soft"], linewidth=1)
    axes.set_xscale("log")
    ends = [value for row in rows for value in (row.least, row.most, row.wanted or 1.0, 1.0)]
    least, most = min(ends) / 1.15, max(ends) * 1.15
    steps = (1, 1.2, 1.5, 2, 3, 5, 7) if most / least < 5 else (1, 2, 5)
    ticks = [
        base * 10.0**power
        for power in range(-4, 7)
        for base in (steps if most / least < 100 else (1,))
        if least <= base * 10.0**power <= most
    ]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(least, most)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(places, [_label(row) for row in rows])
    axes.tick_params(length=0, labelsize=9, colors=LIGHT["soft"])
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
    axes.grid(axis="x", color=LIGHT["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_frame_on(False)


def _label(row: Comparison) -> str:
    what = textwrap.shorten(row.what, 46, placeholder=" …")
    return f"{what}\nagainst {textwrap.shorten(row.against, 38, placeholder=' …')}"


def in_colours(drawn: str) -> str:
    """Each colour by its name, and what the names mean by day and by night."""
    for name, colour in LIGHT.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    style = (
        f"<style>svg{{{_rules(LIGHT)}}}"
        f"@media (prefers-color-scheme: dark){{svg{{{_rules(DARK)}}}}}</style>"
    )
    drawn = re.sub(r"(<svg [^>]*>)", lambda found: found[1] + "\n " + style, drawn, count=1)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def _rules(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
