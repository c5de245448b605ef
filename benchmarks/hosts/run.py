"""The parts of the benchmark: one host, three of them, a cut cable, a host that is gone."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.encode.contestant import cpu_of, spent
from benchmarks.hosts.place import HOSTS, Fleet, Transport, opened
from benchmarks.kit.command import Busy
from benchmarks.kit.fleet import fresh_state
from benchmarks.kit.measure import percentile
from benchmarks.kit.namespaces import Network

__all__ = ["Course", "Part", "Plan", "missed", "run", "told"]

LEAD: Final = 3.0
"""Seconds of load before something happens."""
AFTER: Final = 12.0
"""Seconds of load after the last that happens."""
CUT: Final = 2
GONE: Final = 1
"""The hosts to which it happens."""

Say = Callable[[str], None]
Answer = tuple[float, float, str | None]
"""When it was asked, seconds since the load began; seconds until its end; why it failed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of them."""

    transport: Transport
    clients: int = 48
    seconds: float = 15.0
    """Of load where nothing happens."""
    cut: float = 10.0
    """Seconds for which a cable is out."""
    deadline: float = 30.0
    """Seconds that a request has."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of load."""

    name: str
    requests: int
    answered: int
    failed: dict[str, int]
    """By code."""
    rate: float
    """Answered a second, while clients asked."""
    p50_ms: float
    p99_ms: float
    longest_s: float
    """Of a request, answered or not."""
    cpu_us: dict[str, float]
    """CPU microseconds a request of the first host's processes, by service."""
    shares: dict[str, float]
    """Of the texts, by encoder, 0 to 1."""
    cores: float
    """Of this machine, less what others used meanwhile."""


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """All parts on one transport."""

    plan: Plan
    parts: tuple[Part, ...]
    back_s: float | None
    """Seconds from the mended cable to the first heartbeat that tells of new texts; None: it did
    not come."""
    restarted_s: float
    """Seconds until a process on the host that was gone was ready again."""


def told(
    name: str,
    answers: list[Answer],
    seconds: float,
    cpu: dict[str, float],
    texts: dict[str, int],
    cores: float,
) -> Part:
    """The figures of a stretch; `cpu` seconds and texts are what was used in it, `cores` those that
    were left to it."""
    good = [(at, took) for at, took, failed in answers if failed is None]
    waits = [took for _, took in good]
    whole = sum(texts.values()) or 1
    return Part(
        name=name,
        requests=len(answers),
        answered=len(good),
        failed=dict(Counter(failed for _, _, failed in answers if failed is not None)),
        rate=sum(at + took <= seconds for at, took in good) / seconds,
        p50_ms=1e3 * percentile(waits, 0.5),
        p99_ms=1e3 * percentile(waits, 0.99),
        longest_s=max((took for _, took, _ in answers), default=0.0),
        cpu_us={
            who: 1e6 * used / max(len(answers), 1)
            for who, used in sorted(cpu.items())
            if who in ("broker", "router")
        },
        shares={who: count / whole for who, count in sorted(texts.items())},
        cores=cores,
    )


def missed(course: Course) -> list[str]:
    """What was promised and not kept: every request is answered by its deadline."""
    found = []
    for part in course.parts:
        where = f"{course.plan.transport}, {part.name}"
        if part.answered < part.requests:
            why = ", ".join(f"{count} {code}" for code, count in part.failed.items())
            found.append(f"{where}: {part.requests - part.answered} not answered ({why})")
        if part.longest_s > course.plan.deadline:
            found.append(f"{where}: one took {part.longest_s:.1f} s")
    if course.back_s is None:
        found.append(f"{course.plan.transport}: the host whose cable was mended did not come back")
    return found


async def run(plan: Plan, model: str | None, log: Path, say: Say) -> Course:
    """Needs root; raises `NetworkError`, `FleetFailed`, `ChildFailed`, `NatsFailed`."""
    with Network(HOSTS + 1) as network, fresh_state() as folder:
        say(f"{plan.transport}: the first host")
        async with opened(network, folder, plan.transport, model=model, log=log) as fleet:
            await fleet.asker.ask(90, span=2.0, clients=4, deadline=60.0)  # warm
            say(f"{plan.transport}: one host")
            parts = [await _load(fleet, plan, "one host", plan.seconds)]
            say(f"{plan.transport}: two more hosts")
            for host in range(1, HOSTS):
                await fleet.start(host)
            await _load(fleet, plan, "warm", 2.0)
            say(f"{plan.transport}: three hosts")
            parts.append(await _load(fleet, plan, "three hosts", plan.seconds))
            say(f"{plan.transport}: a cable is cut for {plan.cut:.0f} s")
            mended = [0.0]
            parts.append(await _load(fleet, plan, *_cutting(fleet, plan, mended)))
            again = (await fleet.asker.ask())[f"encoder-host-{CUT}"]["back"]
            back = None if again is None else max(0.0, again - mended[0])
            say(f"{plan.transport}: a host is gone")
            parts.append(await _load(fleet, plan, *_killing(fleet)))
            say(f"{plan.transport}: it comes back")
            restarted = await fleet.start(GONE)
            parts.append(await _load(fleet, plan, "three hosts again", plan.seconds / 2))
            fleet.running.check()
    return Course(plan=plan, parts=tuple(parts), back_s=back, restarted_s=restarted)


Happening = Callable[[], Awaitable[None]]


def _cutting(fleet: Fleet, plan: Plan, mended: list[float]) -> tuple[str, float, Happening]:
    async def happen() -> None:
        await asyncio.sleep(LEAD)
        fleet.network.cut(CUT)
        await asyncio.sleep(plan.cut)
        fleet.network.mend(CUT)
        mended[0] = time.monotonic()

    return f"a cable cut for {plan.cut:g} s", LEAD + plan.cut + AFTER, happen


def _killing(fleet: Fleet) -> tuple[str, float, Happening]:
    async def happen() -> None:
        await asyncio.sleep(LEAD)
        fleet.kill(GONE)

    return "a host gone", LEAD + AFTER, happen


async def _load(
    fleet: Fleet, plan: Plan, name: str, seconds: float, happen: Happening | None = None
) -> Part:
    """Load for so long, and what happens meanwhile."""
    busy = Busy()
    before, texts = cpu_of(fleet.running.process.pid), await fleet.texts()
    limit = seconds + plan.deadline + 30
    order: dict[str, Any] = {"clients": plan.clients, "deadline": plan.deadline}
    asking = asyncio.create_task(fleet.asker.ask(limit, span=seconds, **order))
    if happen is not None:
        await happen()
    answers = (await asking)["answers"]
    cpu = spent(before, cpu_of(fleet.running.process.pid))
    left = (os.cpu_count() or 1) * (1 - busy.others())
    await asyncio.sleep(2.5)  # until the next heartbeats
    after = await fleet.texts()
    grown = {who: count - texts.get(who, 0) for who, count in after.items()}
    return told(
        name,
        [tuple(it) for it in answers],
        seconds,
        cpu,
        {who: max(count, 0) for who, count in grown.items()},
        left,
    )
