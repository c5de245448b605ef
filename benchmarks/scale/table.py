"""What was found, as tables for people; the page has the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.kit.show import machine_line, number
from benchmarks.scale.costs import Carrier, Costs
from benchmarks.scale.forecast import Scale
from benchmarks.scale.plans import Outcome

__all__ = ["DAY", "Rows", "full", "in_bytes", "journal", "parts", "show"]

DAY = 86_400
RATES = (("1 a minute", 1 / 60), ("1 a second", 1.0), ("10 a second", 10.0), ("100 a second", 1e2))
"""Pieces of feedback."""


class Rows(NamedTuple):
    """One table."""

    title: str
    heads: tuple[str, ...]
    cells: list[tuple[str, ...]]


def full(scale: Scale, carrier: str) -> list[Outcome]:
    """Fleets that do as much as they can, one text a request, one router."""
    return [
        it
        for it in scale.outcomes
        if it.plan.carrier == carrier
        and (it.plan.clients and it.plan.routers == it.plan.texts == 1)
    ]


def parts(scale: Scale) -> Iterator[Rows]:
    """All tables."""
    yield _checks(scale)
    yield _full(scale)
    yield _waits(scale)
    yield _helps(scale)
    yield _costs(scale.costs)
    yield _index(scale.costs)
    yield journal(scale.costs.carriers[0].stored)


def show(scale: Scale, console: Console) -> None:
    """Print them."""
    for rows in parts(scale):
        table = Table(title=rows.title, title_justify="left")
        for place, head in enumerate(rows.heads):
            table.add_column(head, justify="right" if place else "left")
        for cells in rows.cells:
            table.add_row(*cells)
        console.print(table)
    line = f"{machine_line(scale.machine)}; load {scale.load:.1f} when it began"
    console.print(line, markup=False, highlight=False)


def _checks(scale: Scale) -> Rows:
    rows = []
    for check in scale.checks:
        seen, who = check.seen, _count(check.seen.encoders, "encoder")
        for what, predicted, found in (
            (f"64 clients, {seen.cores:.1f} cores, texts/s", check.texts, seen.texts),
            ("one client, p50 in ms", check.p50_ms, seen.p50_ms),
        ):
            off = f"{predicted / found - 1:+.0%}"
            rows.append((f"{who}, {what}", number(predicted), number(found), off))
    return Rows("Simulated and seen", ("", "simulated", "seen", "off by"), rows)


def _full(scale: Scale) -> Rows:
    rows = [
        (
            f"{it.plan.encoders}, {it.plan.carrier}",
            number(it.texts),
            number(it.events),
            *(f"{share:.0%}" for share in (it.broker, it.router, it.encoder)),
            it.first,
        )
        for carrier in scale.costs.carriers
        for it in full(scale, carrier.name)
    ]
    heads = ("encoders", "texts/s", "events/s", "broker", "router", "encoders busy", "first")
    return Rows("As much as it can do, single texts, one router", heads, rows)


def _waits(scale: Scale) -> Rows:
    rows = []
    for carrier in scale.costs.carriers:
        for most in full(scale, carrier.name):
            for it in scale.outcomes:
                same = (it.plan.carrier, it.plan.encoders) == (carrier.name, most.plan.encoders)
                if same and it.plan.rate:
                    share = f"{it.plan.rate / most.rate:.0%}"
                    waits = number(it.p50_ms), number(it.p99_ms)
                    rows.append(
                        (f"{most.plan.encoders}, {carrier.name}", share, number(it.rate), *waits)
                    )
    heads = ("encoders", "load", "requests/s", "p50, ms", "p99, ms")
    return Rows("How long a request takes below that", heads, rows)


def _helps(scale: Scale) -> Rows:
    rows = []
    for it in scale.outcomes:
        if it.plan.encoders == 100 and it.plan.clients:
            what = _count(it.plan.routers, "router")
            if it.plan.texts > 1:
                what += f", requests of {it.plan.texts} texts"
            busy = (f"{share:.0%}" for share in (it.broker, it.router, it.encoder))
            rows.append((f"{what}, {it.plan.carrier}", number(it.texts), *busy, it.first))
    heads = ("100 encoders", "texts/s", "broker", "router", "encoders busy", "first")
    return Rows("What helps at 100 encoders", heads, rows)


def _costs(costs: Costs) -> Rows:
    rows: list[tuple[str, ...]] = []
    found: Sequence[Carrier] = costs.carriers
    first = found[0]
    names = [carrier.name for carrier in found]
    rows.append(("a request, 64 under way: broker", *(number(it.light.broker_us) for it in found)))
    rows.append(("the same: router", *(number(it.light.router_us) for it in found)))
    for place, path in enumerate(first.paths):
        what = _count(path.encoders, "encoder")
        what += f", {path.texts} texts" if path.texts > 1 else ""
        for who in ("broker", "router"):
            values = [getattr(it.paths[place], f"{who}_us") for it in found]
            rows.append((f"a request, many waiting, {what}: {who}", *map(number, values)))
    rows.append(("a request that is another router's", *(number(it.hear_us) for it in found)))
    rows.append(("a heartbeat: broker", *(number(it.beat_broker_us) for it in found)))
    rows.append(("a heartbeat: router", *(number(it.beat_router_us) for it in found)))
    rows.append(("live events of 500 B a second", *(number(it.live) for it in found)))
    rows.append(("durable ones, 8 publishers", *(number(it.durable) for it in found)))
    return Rows("Measured: CPU microseconds, and events a second", ("", *names), rows)


def _index(costs: Costs) -> Rows:
    rows = [
        (
            f"{it.skills:,}",
            f"{it.prototypes:,}",
            f"{it.bytes / 1e6:.1f}",
            *(number(value) for value in (it.own_us, it.other_us)),
        )
        for it in costs.index
    ]
    heads = ("skills", "prototypes", "MB", "a query of its own, µs", "of others, µs")
    return Rows("The index of a router", heads, rows)


def journal(each: float) -> Rows:
    """Growth by rate, at so many bytes an event."""
    rows = []
    for name, rate in RATES:
        daily = rate * DAY * each
        rows.append((name, f"{rate * DAY:,.0f}", in_bytes(daily), number((1 << 30) / daily)))
    heads = ("durable events of 500 B", "a day", "bytes a day", "days until 1 GiB")
    return Rows("The journal", heads, rows)


def in_bytes(value: float) -> str:
    """`60.0 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{number(value)} {unit}"
        value /= 1000
    return f"{number(value)} TB"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count > 1 else "")
