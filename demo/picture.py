"""The report's pictures, drawn as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from demo.results import Mark, Results

__all__ = ["curve", "gains_chart", "timeline"]

WIDTH = 820
LEFT, RIGHT = 190, 96
ROW = 46


def gains_chart(results: Results) -> str:
    """MRR@10 and recall@1 of each route: a dot, and around it the interval of its gain."""
    rows = results.measured
    series = (("MRR@10", "mrr", 1), ("recall@1", "recall", 0))
    values = [
        value
        for it in rows
        for _, name, which in series
        for gain in (results.gains(it)[which],)
        for base in (getattr(results.base.figures, name),)
        for value in (base + gain.low, base + gain.high)
    ]
    low, high = min(values), max(values)
    margin = max(0.01, (high - low) * 0.12)
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts: list[str] = []
    top = 26
    for title, name, which in series:
        base = getattr(results.base.figures, name)
        parts.append(f'<text class="h" x="0" y="{top}">{title}</text>')
        bottom = top + 14 + ROW * len(rows)
        parts.append(
            f'<line class="ref" x1="{x(base):.1f}" x2="{x(base):.1f}" y1="{top + 8}" '
            f'y2="{bottom}"/>'
        )
        for number, it in enumerate(rows):
            y = top + 14 + ROW * (number + 0.5)
            gain, value = results.gains(it)[which], getattr(it.figures, name)
            tone = "base" if it is results.base else "gain"
            parts.append(
                f'<text x="0" y="{y + 5:.1f}">{escape(label_of(it.label, it.skill))}</text>'
            )
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            if it is not results.base:
                ends = x(base + gain.low), x(base + gain.high)
                parts.append(
                    f'<line class="bar" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}"/>'
                )
            parts.append(f'<circle class="{tone}" cx="{x(value):.1f}" cy="{y}" r="6.5"/>')
            parts.append(f'<text class="v" x="{WIDTH}" y="{y + 5:.1f}">{value:.3f}</text>')
        top = int(bottom) + 44
    return _svg(top - 30, parts, "Held-out figures before and after")


def timeline(results: Results) -> str:
    """What happened when: feedback, clashes, batches, tasks, versions."""
    end = max([mark.at for mark in results.marks], default=1.0) * 1.03 + 0.5
    span = WIDTH - LEFT - 12

    def x(at: float) -> float:
        return LEFT + at / end * span

    lanes = (
        ("feedback judged", ("judged",), "tick"),
        ("clashes", ("clash",), "tick clash"),
        ("batches", ("batch",), "dot"),
        ("training asked for", ("task",), "dot"),
        ("gate: refused", ("refused",), "dot refused"),
        ("in service", ("head", "body"), "version"),
    )
    parts: list[str] = []
    for number, (title, kinds, style) in enumerate(lanes):
        y = 22 + number * 36
        parts.append(f'<text x="0" y="{y + 5}">{title}</text>')
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y}" y2="{y}"/>')
        marks = [mark for mark in results.marks if mark.kind in kinds]
        parts += [_mark(mark, x(mark.at), y, style) for mark in _thinned(marks, end / span)]
    base = 22 + len(lanes) * 36 - 6
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 12}" y1="{base}" y2="{base}"/>')
    step = next((it for it in (5, 10, 15, 30, 60, 120, 300) if end / it <= 9), 600)
    for at in range(0, int(end) + 1, step):
        parts.append(f'<text class="t" x="{x(at):.1f}" y="{base + 18}">{at} s</text>')
    return _svg(base + 28, parts, "The learning loop over time")


def _mark(mark: Mark, x: float, y: float, style: str) -> str:
    if style.startswith("tick"):
        return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"/>'
    told = f"<title>{escape(mark.text)} at {mark.at:.1f} s</title>"
    if style == "version":
        text = f'<text class="n" x="{x:.1f}" y="{y - 12}">{mark.kind}</text>'
        return f'<circle class="gain" cx="{x:.1f}" cy="{y}" r="7">{told}</circle>{text}'
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y}" r="4.5">{told}</circle>'


def _thinned(marks: Sequence[Mark], second: float) -> list[Mark]:
    """At most one mark for each pixel and kind."""
    kept: dict[tuple[str, int], Mark] = {}
    for mark in marks:
        kept.setdefault((mark.kind, int(mark.at / max(second, 1e-9))), mark)
    return list(kept.values())


def label_of(label: str, skill: str | None) -> str:
    """How people read a route."""
    if skill is not None:
        return f"{skill.rpartition('@')[0]} {skill.rpartition('@')[2]} ({label})"
    return {"base": "base model", "auto": "routed by itself"}.get(label, label)


def curve(results: Results) -> str:
    """Recall within the first k, before (dashed) and after."""
    final = results.final
    if final is None:
        return ""
    top, bottom, most = 14, 200, 20
    before = [float((results.base.ranks <= k).mean()) for k in range(1, most + 1)]
    after = [float((final.ranks <= k).mean()) for k in range(1, most + 1)]
    low, high = min(before) - 0.03, max(after) + 0.03

    def point(k: int, value: float) -> str:
        x = 60 + (k - 1) / (most - 1) * (WIDTH - 60 - 120)
        return f"{x:.1f},{bottom - (value - low) / (high - low) * (bottom - top):.1f}"

    def line(values: Sequence[float], style: str, name: str, shift: float) -> list[str]:
        points = [point(k, value) for k, value in enumerate(values, start=1)]
        x, y = points[-1].split(",")
        return [
            f'<polyline class="{style}" points="{" ".join(points)}"/>',
            f'<text x="{float(x) + 10:.1f}" y="{float(y) + shift:.1f}">'
            f"{name} {values[-1]:.2f}</text>",
        ]

    parts = [
        *line(before, "before", "before", 14),
        *line(after, "after", "after", -4),
    ]
    parts.append(f'<line class="axis" x1="60" x2="{WIDTH - 120}" y1="{bottom}" y2="{bottom}"/>')
    for k in (1, 5, 10, 15, 20):
        x = point(k, low).split(",")[0]
        parts.append(f'<text class="t" x="{x}" y="{bottom + 18}">{k}</text>')
    for value in (low + 0.03, (low + high) / 2, high - 0.03):
        y = float(point(1, value).split(",")[1])
        parts.append(f'<text class="v" x="48" y="{y + 4:.1f}">{value:.2f}</text>')
    return _svg(bottom + 28, parts, "Share of queries whose signature is among the first k")


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
