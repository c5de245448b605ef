"""The page docs/scale.md, from the results alone: the same results make the same page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.kit.show import number
from benchmarks.report.page import table
from benchmarks.scale import picture
from benchmarks.scale.costs import BROKER, NATS
from benchmarks.scale.forecast import Scale
from benchmarks.scale.page_runs import hosts_lines, kept, learned_lines, measured
from benchmarks.scale.table import DAY, Rows, full, in_bytes, parts

__all__ = ["page", "write"]

MOST = 1000
"""Encoders beyond which nobody looks for what saturates."""

HEAD = """\
# Scale

How cost grows with encoders, skills and feedback: what saturates first, and what to do then. What
a request costs each process is measured; fleets larger than the machine at hand are simulated
from that. This page is made of `benchmarks/results/` by `python -m benchmarks.report`; each
section says which command measures it anew.
"""

ASSUMED = """\
## What is measured, and what is assumed

```console
$ python -m benchmarks.scale --out benchmarks/results/scale.json
```

Measured, through the real code: the CPU time of the bus and of the router for a request (the
cheapest of three runs; a real broker or NATS server and a real router between clients and
stand-ins, which answer for 1, 10 or 100 encoders and compute nothing); the forward pass of one
encoder on one thread, by tokens of a batch, on texts of 7 to 66 tokens; what an encoder does
beside it; heartbeats; the index; the bytes of the journal.

In the simulation time is virtual and chance is seeded. Every request is placed by the router's
own `Workers.choose`, every batch made by the encoder's own `Batcher.take`; what those take, and
all else, is the time that was measured. Assumed:

- every process has a core of its own, as fast as one of this machine's while the other one is
  idle; clients cost nothing;
- 0.1 ms from one process to the next;
- broker and router do one thing after another. The broker's thread for input and output, and the
  threads of a NATS server, can do more at once: their limits are the low end;
- requests are decided without asking for a base vector (`route: base` or `named`, or `auto` for a
  text that the router knows). A new text with `auto` goes to an encoder twice, once for its base
  vector and once, nearly for nothing where the card is a head alone, for the answer: so reckon
  with half of the router's requests a second;
- a router with a queue. Where little waits, each request costs the processes more CPU, since they
  wake up for each: the first rows of the costs say how much. That matters for latency, not for
  what a fleet can do at most.
"""


def page(
    scale: Scale, hosts: dict[str, Any] | None, learned: dict[str, Any] | None, drawn: str
) -> str:
    """Markdown; `drawn` is the picture's place, seen from the page."""
    return "\n".join(_lines(scale, hosts, learned, drawn)).rstrip("\n") + "\n"


def write(results: Path, file: Path, pictures: Path) -> bool:
    """Page and picture from a folder of results; whether there was anything to write."""
    found = results / "scale.json"
    if not found.is_file():
        return False
    scale = msgspec.json.decode(found.read_bytes(), type=Scale)
    hosts, learned = _read(results / "hosts.json"), _read(results / "buses.json")
    pictures.mkdir(parents=True, exist_ok=True)
    (pictures / "scale.svg").write_text(picture.draw(scale), "utf-8")
    place = (pictures / "scale.svg").relative_to(file.parent).as_posix()
    file.write_text(page(scale, hosts, learned, place), "utf-8")
    return True


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _lines(
    scale: Scale, hosts: dict[str, Any] | None, learned: dict[str, Any] | None, drawn: str
) -> Iterator[str]:
    checks, most, waits, helps, costs, index, journal = parts(scale)
    yield HEAD
    yield "## What saturates first, and what to do then\n"
    yield f"![Texts a second by encoders]({drawn})\n"
    yield from _advice(scale)
    for rows_ in (most, waits, helps):
        yield from _section(rows_)
    yield ASSUMED
    yield "## What was measured\n"
    for rows_ in (costs, index, journal):
        yield from _section(rows_)
    yield (
        "The journal's rows are reckoned with "
        f"{scale.costs.carriers[0].stored:,.0f} bytes of file for an event of 500 B on our broker"
        f"{_stored(scale)}. Our broker forgets what is older than `bus.retention_days` (30) and "
        "acknowledged by every group, and never grows beyond `bus.retention_bytes` (1 GiB): the "
        "last column says when that is reached; with more feedback set it higher. A group that "
        "nobody consumes any more holds what came since, until it is dropped "
        "([who is behind](how-to/operate.md#who-is-behind)). NATS forgets nothing by itself."
    )
    if learned is not None:
        each = kept(learned["sizes"][0])
        yield (
            "A piece of feedback is not one event but the first of several, of which the later "
            f"ones repeat its texts: in [the whole loop](#the-loop-on-nats) it left "
            f"{in_bytes(each)}, which is {in_bytes(each * DAY)} a day with one piece a second."
        )
    yield ""
    yield "## Can it be believed?\n"
    yield (
        "A real fleet on this machine, where clients, broker, router and encoders share the "
        "cores, beside the simulation of the same:\n"
    )
    yield from _section(checks)
    yield (
        "Throughput is what the simulation is for. What one lone request waits it takes too low: "
        "nobody wakes up as soon as something is there, least of all on a machine that others use "
        "too, and there are six steps from one process to the next.\n"
    )
    yield measured(scale.machine, scale.load)
    if hosts is not None:
        yield from hosts_lines(hosts)
    if learned is not None:
        yield from learned_lines(learned)


def _section(found: Rows) -> Iterator[str]:
    yield f"**{found.title}**\n"
    yield from table(found.heads, "l" + "r" * (len(found.heads) - 1), found.cells)
    yield ""


def _stored(scale: Scale) -> str:
    others = [it for it in scale.costs.carriers if it.name != BROKER]
    return "".join(f", {it.stored:,.0f} on {it.name}" for it in others)


def _advice(scale: Scale) -> Iterator[str]:
    alone, ten, hundred = full(scale, BROKER)
    carrier = scale.costs.carrier(BROKER)
    yield (
        f"- **One encoder** does {number(alone.texts)} texts a second; broker and router are at "
        f"{alone.broker:.0%} and {alone.router:.0%}."
    )
    first, place = _saturates(scale, alone.texts)
    yield (
        f"- **Ten** do {number(ten.texts)}, {ten.texts / alone.texts:.1f} times as much; the "
        "router "
        f"is at {ten.router:.0%}, the broker at {ten.broker:.0%}. What saturates first, with "
        "single "
        f"texts and one router, is **the {first}, at some {place} encoders** of this kind: for "
        "each "
        "request the router looks at every encoder, and the broker wakes up four times."
    )
    several = {it.plan.routers: it for it in scale.outcomes if _many(it.plan)}
    more = "; ".join(
        f"with {routers} it is {number(it.texts)} (broker {it.broker:.0%}, each router "
        f"{it.router:.0%})"
        for routers, it in several.items()
    )
    last = max(several.values(), key=lambda it: it.plan.routers)
    full_then = "Then our broker has no time left. " if last.first == "broker" else ""
    fan = f"{number(carrier.fan_us)} µs" if carrier.fan_us >= 1 else "less than 1 µs"
    yield (
        f"- **A hundred** with one router do {number(hundred.texts)} (broker {hundred.broker:.0%}, "
        f"router {hundred.router:.0%}). *Then:* [several routers](how-to/several-machines.md) "
        f"share the requests: {more}. {full_then}Each router more takes {fan} of the broker's "
        f"time a request, and {number(carrier.hear_us)} µs of every other router's."
    )
    lists = next(it for it in scale.outcomes if it.plan.texts > 1 and it.plan.carrier == BROKER)
    yield (
        "- **Lists instead of single texts** help everywhere and cost nothing: requests of "
        f"{lists.plan.texts} texts take one router and a hundred encoders to "
        f"{number(lists.texts)} texts a second."
    )
    if any(it.name == NATS for it in scale.costs.carriers):
        yield from _on_nats(scale)
    yield (
        "- *Beyond that*: several fleets, each with a bus of its own, that share what they "
        "learn by "
        "[federation](federation.md)."
    )
    yield ""


def _on_nats(scale: Scale) -> Iterator[str]:
    ours, nats = scale.costs.carrier(BROKER), scale.costs.carrier(NATS)
    cheaper = nats.broker_us(100) < ours.broker_us(100)
    advice = (
        "So where our broker has no time left for requests, NATS is what comes next; for "
        if cheaper
        else "NATS is for a bus that has to outlive a machine, not for speed, least of all for "
    )
    yield (
        "- **On NATS** (one server, on the loopback) a request costs the server "
        f"{number(nats.broker_us(100))} µs with a hundred encoders, where our broker takes "
        f"{number(ours.broker_us(100))}; the router {number(nats.router_us(100))} and "
        f"{number(ours.router_us(100))}. From one publisher to one subscriber it carries "
        f"{number(nats.live)} live events a second, our broker {number(ours.live)}; durable "
        "ones of "
        f"8 publishers {number(nats.durable)} ({nats.durable_how}), our broker "
        f"{number(ours.durable)}. {advice}feedback, flushed before it is acknowledged, "
        f"{'our broker is' if ours.durable > nats.durable else 'it is'} the faster one."
    )


def _saturates(scale: Scale, alone: float) -> tuple[str, int]:
    """Who has no time left first as encoders are added, and with how many."""
    for encoders in range(1, MOST):
        router, broker = picture.limits(scale.costs, BROKER, encoders)
        if encoders * alone >= min(router, broker):
            return ("router" if router < broker else "broker"), encoders
    return "encoders", MOST


def _many(plan: Any) -> bool:
    return bool(plan.carrier == BROKER and plan.routers > 1 and plan.texts == 1)
