"""What fleets can do by how many encoders they have: SVG in the reader's colours."""

from __future__ import annotations

import io
from typing import Any

from benchmarks.kit.show import number
from benchmarks.report.picture import LIGHT, in_colours
from benchmarks.scale.costs import Costs
from benchmarks.scale.forecast import Scale
from benchmarks.scale.table import full

__all__ = ["draw"]

PLACES = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50, 70, 100)
"""Encoders for which the lines are drawn."""
TONES = ("good", "bad")


def limits(costs: Costs, carrier: str, encoders: int) -> tuple[float, float]:
    """Requests a second that one router, and the broker, have the time for."""
    found = costs.carrier(carrier)
    return 1e6 / found.router_us(encoders), 1e6 / found.broker_us(encoders)


def draw(scale: Scale) -> str:
    """Texts a second over encoders, both logarithmic; points are simulated fleets."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": scale.name,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.6, 4.6), facecolor=LIGHT["paper"])
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.09, 0.13, 0.87, 0.72))
        _lines(axes, scale)
        for place, carrier in enumerate(scale.costs.carriers):
            _points(axes, scale, carrier.name, LIGHT[TONES[place % len(TONES)]], place)
        _dress(axes)
        title = "Texts a second, single texts: what fleets do, and what bounds them"
        figure.text(0.02, 0.93, title, color=LIGHT["ink"], size=12, weight="bold")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return in_colours(stream.getvalue())


def _lines(axes: Any, scale: Scale) -> None:
    """What encoders could do if nothing else took time, and what bounds them on our broker."""
    name = scale.costs.carriers[0].name
    alone = full(scale, name)[0].texts
    bounds = [limits(scale.costs, name, place) for place in PLACES]
    drawn = (
        ("encoders alone", [alone * place for place in PLACES], "-"),
        ("one router", [router for router, _ in bounds], "--"),
        ("four routers", [4 * router for router, _ in bounds], "--"),
        (name, [broker for _, broker in bounds], ":"),
    )
    for label, values, style in drawn:
        axes.plot(PLACES, values, style, color=LIGHT["plain"], linewidth=1.3)
        at = 6 if style in "-:" else 1
        axes.annotate(
            label,
            (PLACES[at], values[at]),
            xytext=(0, 5),
            textcoords="offset points",
            size=9,
            ha="right" if style == "-" else "left",
            color=LIGHT["soft"],
        )


def _points(axes: Any, scale: Scale, carrier: str, tone: str, place: int) -> None:
    single = full(scale, carrier)
    fours = [
        it
        for it in scale.outcomes
        if it.plan.carrier == carrier and it.plan.routers == 4 and it.plan.texts == 1
    ]
    axes.plot(
        [it.plan.encoders for it in single],
        [it.texts for it in single],
        "o",
        color=tone,
        label=f"simulated, {carrier}, one router",
    )
    axes.plot(
        [it.plan.encoders for it in fours],
        [it.texts for it in fours],
        "o",
        color=tone,
        fillstyle="none",
        label=f"simulated, {carrier}, four routers",
    )
    for it in single if place == 0 else ():
        axes.annotate(
            number(it.texts),
            (it.plan.encoders, it.texts),
            xytext=(7, -12),
            textcoords="offset points",
            size=9,
            color=LIGHT["ink"],
        )


def _dress(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.set_xticks([], minor=True)
    ticks = [100, 1000, 10_000, 100_000]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlim(0.85, 130)
    axes.set_xlabel("encoders of one core", color=LIGHT["soft"], size=9)
    axes.tick_params(length=0, labelsize=9, colors=LIGHT["soft"])
    axes.grid(color=LIGHT["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_frame_on(False)
    axes.legend(
        loc="lower right",
        fontsize=8,
        facecolor=LIGHT["paper"],
        edgecolor=LIGHT["rule"],
        labelcolor=LIGHT["ink"],
    )
