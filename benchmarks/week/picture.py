"""The week as a picture: quality over the days, versions and kills marked, as one SVG file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from benchmarks.week.history import Entry
from benchmarks.week.run import Week

__all__ = ["draw"]

WIDTH, HEIGHT = 1000, 600
LEFT, RIGHT = 70, 170
TOP, BOTTOM = 86, 390
LANES = (432, 468, 504, 548)
INK, SOFT, LINE, BASE, GAIN, BAD = "#1c2330", "#667085", "#e3e7ee", "#98a2b3", "#0b7a75", "#c2410c"

Place = Callable[[float], float]


def draw(week: Week) -> str:
    """SVG; the colours are written at each mark, so that any viewer shows them."""
    entries = () if week.history is None else week.history.entries
    start = week.nights[0]
    # A busy machine judges the last day's feedback when the day is over.
    end = max([week.nights[-1], *(entry.installed or entry.at for entry in entries)])

    def x(at: float) -> float:
        return LEFT + (at - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    parts = [
        _text(LEFT, 30, "The days of one skill", size=20, weight=650),
        _text(
            LEFT,
            54,
            "Held-out questions each evening, of all categories asked about so far. "
            "Bars: how many those are.",
            colour=SOFT,
        ),
        *_days(week, x),
        *_quality(week, x),
        *_lanes(week, entries, x),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _days(week: Week, x: Place) -> list[str]:
    """The nights as lines, the days' names, and how much of the domain is asked about."""
    parts: list[str] = []
    most = max((len(it.day.categories) for it in week.evenings), default=1)
    for at in week.nights:
        parts.append(_line(x(at), TOP, x(at), LANES[-1] + 14, LINE))
    for number, (begin, end) in enumerate(pairwise(week.nights)):
        if number >= len(week.evenings):
            break
        day = week.evenings[number].day
        middle = (x(begin) + x(end)) / 2
        tone = BAD if day.wrong else INK
        parts.append(_text(middle, HEIGHT - 14, day.name, anchor="middle", colour=tone))
        if day.wrong:
            parts.append(_text(middle, TOP - 6, "half wrong", anchor="middle", colour=BAD, size=12))
        height = 46 * len(day.categories) / most
        width = x(end) - x(begin) - 8
        parts.append(
            f'<rect x="{x(begin) + 4:.1f}" y="{BOTTOM - height:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" fill="#f2f4f7"/>'
        )
        parts.append(
            _text(
                middle, BOTTOM - 6, str(len(day.categories)), anchor="middle", colour=BASE, size=12
            )
        )
    return parts


def _quality(week: Week, x: Place) -> list[str]:
    if not week.evenings:
        return []
    lines = (
        ("fleet, recall@1", [it.fleet.recall for it in week.evenings], GAIN, False),
        ("fleet, MRR@10", [it.fleet.mrr for it in week.evenings], GAIN, True),
        ("base, recall@1", [it.base.recall for it in week.evenings], BASE, False),
        ("base, MRR@10", [it.base.mrr for it in week.evenings], BASE, True),
    )
    values = [value for _, found, _, _ in lines for value in found]
    # Quality is drawn above the bars of the categories.
    low, high = min(values) - 0.02, max(values) + 0.02

    def y(value: float) -> float:
        return BOTTOM - 56 - (value - low) / (high - low) * (BOTTOM - 56 - TOP - 10)

    parts: list[str] = []
    for step in range(int(low * 20) + 1, int(high * 20) + 1):
        value = step / 20
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), LINE))
        parts.append(_text(LEFT - 10, y(value) + 4, f"{value:.2f}", anchor="end", colour=SOFT))
    heights = _apart([y(found[-1]) for _, found, _, _ in lines], 17)
    for (name, found, colour, dashed), height in zip(lines, heights, strict=True):
        places = [(x(it.at), y(value)) for it, value in zip(week.evenings, found, strict=True)]
        points = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>'
        )
        parts += [_dot(left, top, 4, colour) for left, top in places]
        parts.append(
            _text(WIDTH - RIGHT + 12, height + 4, f"{name} {found[-1]:.3f}", colour=colour, size=13)
        )
    return parts


def _lanes(week: Week, entries: Sequence[Entry], x: Place) -> list[str]:
    """Below: versions in service, what the gate refused, what was retired, who was killed."""
    titles = ("in service", "refused", "retired", "killed")
    parts: list[str] = []
    for title, y in zip(titles, LANES, strict=True):
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, LINE))
        parts.append(_text(WIDTH - RIGHT + 12, y + 4, title, colour=SOFT, size=13))
    last = 0.0
    for entry in entries:
        at = x(entry.installed or entry.at)
        told = _told(entry)
        if entry.kind == "published":
            body = entry.depth == "body"
            parts.append(_dot(at, LANES[0], 8 if body else 5, GAIN, told))
            if at - last > 22:
                parts.append(
                    _text(
                        at,
                        LANES[0] - 12,
                        f"v{entry.version}",
                        anchor="middle",
                        colour=GAIN,
                        size=12,
                    )
                )
                last = at
        elif entry.kind == "rejected":
            parts.append(_dot(at, LANES[1], 8 if entry.depth == "body" else 5, BASE, told))
        else:
            parts.append(_dot(at, LANES[2], 7, BAD, told))
            parts.append(
                _text(at, LANES[2] - 12, f"v{entry.version}", anchor="middle", colour=BAD, size=12)
            )
    last, raised = 0.0, False
    for kill in week.kills:
        at, y = x(kill.at), LANES[3]
        raised = at - last < 50 and not raised
        last = at
        parts.append(_line(at - 4, y - 4, at + 4, y + 4, BAD, 2))
        parts.append(_line(at - 4, y + 4, at + 4, y - 4, BAD, 2))
        name = kill.service.replace("dissonance_", "").replace("adapter_", "")
        parts.append(
            _text(at, y - (19 if raised else 9), name, anchor="middle", colour=SOFT, size=10)
        )
    parts.append(_text(WIDTH - RIGHT + 12, LANES[0] + 19, "large: a body", colour=BASE, size=11))
    return parts


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """The heights moved so that no two lie nearer than `least`, order kept."""
    order = sorted(range(len(heights)), key=lambda it: heights[it])
    moved = list(heights)
    for before, it in pairwise(order):
        moved[it] = max(moved[it], moved[before] + least)
    return moved


def _told(entry: Entry) -> str:
    figures = ""
    if entry.before is not None and entry.after is not None:
        figures = f", MRR@10 {entry.before:.3f} → {entry.after:.3f}"
    version = "" if entry.version is None else f" {entry.version}"
    return f"{entry.kind}{version} {entry.depth or ''}{figures} {entry.reason}".strip()


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    size: int = 14,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _dot(x: float, y: float, radius: float, colour: str, told: str = "") -> str:
    title = f"<title>{escape(told)}</title>" if told else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">{title}</circle>'
