"""A fleet in virtual time: clients, broker, routers and encoders, a request at a time.

What decides is the real code: `Workers.choose` places each request, `Batcher.take` makes each
batch. What takes time is replaced by what it took when it was measured (`costs`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import numpy as np

from benchmarks.kit.measure import percentile
from benchmarks.scale.costs import Costs
from benchmarks.scale.machines import Clock, Machine, Thread
from benchmarks.scale.plans import Outcome, Plan
from schemas import AssignedRow, EncodeAssigned, Event
from services.encoder.batcher import Batcher, Job
from services.router.placement import Work, Workers
from services.runtime.settings import EncoderSettings

__all__ = ["HOP", "simulate"]

HOP: Final = 1e-4
"""Seconds from one process to the next, assumed: waking up, and a switch in between."""
DECIDING: Final = 0.7
"""Share of a router's time for a request that passes before it is handed on."""
EVENTS: Final = 4
"""On the bus for each request: requested, assigned, completed, finished."""
BEAT: Final = 2.0
"""Seconds between two heartbeats of an encoder."""
SOURCE: Final = 64
"""Clients that share one connection, and one turn at the encoders."""
WARM: Final = 0.3
"""Share of the requests before the figures begin."""
_VECTOR: Final = np.zeros(1, np.float32)
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_FAR: Final = datetime(9999, 1, 1, tzinfo=UTC)


class _Encoder:
    """Its loop, its thread that computes, and the real batcher between them."""

    def __init__(self, fleet: _Fleet, machine: Machine) -> None:
        self._fleet = fleet
        self.loop, self.compute = Thread(machine), Thread(machine)
        self._batcher = Batcher(EncoderSettings().batch_tokens)
        self._then: dict[int, Callable[[], None]] = {}
        self._working = False

    def take(self, job: Job, answered: Callable[[], None]) -> None:
        """A request was assigned to it."""

        def admitted() -> None:
            self._then[id(job)] = answered
            self._batcher.add(job)
            if not self._working:
                self._next()

        self.loop.give(self._fleet.overhead / 2, admitted)

    def _next(self) -> None:
        batch = self._batcher.take(_NOW)
        self._working = bool(batch.rows)
        if not batch.rows:
            return
        start, each = self._fleet.line

        def computed() -> None:
            for row in batch.rows:
                row.job.put(row.place, _VECTOR, row.length)
            for job in batch.jobs:
                if not job.left:
                    self.loop.give(self._fleet.overhead / 2, self._then.pop(id(job)))
            self._next()

        self.compute.give(start + each * sum(row.length for row in batch.rows), computed)


class _Fleet:
    def __init__(self, plan: Plan, costs: Costs) -> None:
        carrier = costs.carrier(plan.carrier)
        self.plan = plan
        self.clock = Clock()
        self.chance = random.Random(plan.seed)
        self.tokens = costs.encoding.tokens
        self.line = costs.encoding.line()
        self.overhead = costs.encoding.request_us / 1e6
        self.router_s = carrier.router_us(plan.encoders, plan.texts) / 1e6
        self.broker_s = carrier.broker_us(plan.encoders, plan.texts) / 1e6
        self.client_s = 0.0
        if plan.cores:  # on one machine nobody's queue is long, but the encoders'
            light = carrier.light
            self.router_s, self.broker_s = light.router_us / 1e6, light.broker_us / 1e6
            self.client_s = light.clients_us / 1e6
        self.hear_s = carrier.hear_us / 1e6
        self.fan_s = carrier.fan_us * (plan.routers - 1) / 1e6
        self.beats = carrier.beat_broker_us / 1e6, carrier.beat_router_us / 1e6
        shared = Machine(self.clock, plan.cores, costs.encoding.together) if plan.cores else None

        def machine(cores: float = 1) -> Machine:
            return shared or Machine(self.clock, cores)

        self.broker = Thread(machine())
        self.routers = [Thread(machine()) for _ in range(plan.routers)]
        self.books = [Workers() for _ in range(plan.routers)]
        self.encoders = {f"encoder-{n}": _Encoder(self, machine()) for n in range(plan.encoders)}
        self.client = Thread(machine(1e9))
        sources = max(1, -(-plan.clients // SOURCE))
        self.assigned = [_assigned(f"client-{n}", plan.texts) for n in range(sources)]
        for book in self.books:
            for address in self.encoders:
                book.beat(address, 1, "ready", 0.0)
        self.waits: list[float] = []
        self.done = 0
        self.begun = 0
        self.since = 0.0
        self.mark: tuple[float, ...] = ()
        self.spoken = self.spoken_at = 0

    # One request, step by step

    def ask(self) -> None:
        """A client asks."""
        if self.begun >= self.plan.requests:
            return
        self.begun += 1
        number, asked = self.begun, self.clock.now
        self.client.give(self.client_s / 2, lambda: self._said(lambda: self._route(number, asked)))

    def _said(self, then: Callable[[], None], more: float = 0.0) -> None:
        """An event goes through the broker."""
        self.spoken += 1
        carried = self.broker_s / EVENTS + more

        def at_the_broker() -> None:
            self.broker.give(carried, lambda: self.clock.after(HOP, then))

        self.clock.after(HOP, at_the_broker)

    def _route(self, number: int, asked: float) -> None:
        own = self.chance.randrange(len(self.routers))
        for place, router in enumerate(self.routers):
            if place != own:
                router.give(self.hear_s, _nothing)
        lengths = tuple(self.chance.choice(self.tokens) for _ in range(self.plan.texts))

        def decided() -> None:
            work = Work(tokens=sum(lengths), tie=str(number))
            address = self.books[own].choose(work)
            if address is None:
                raise RuntimeError("no encoder is ready")
            self.books[own].take(address, work.tokens)
            event = self.assigned[number % len(self.assigned)]
            job = Job(event, ((),) * len(lengths), lengths, self.clock.now)

            def answered() -> None:
                self._said(lambda: self._came(asked))
                self._said(lambda: self._finished(own, address, work.tokens))

            self._said(lambda: self.encoders[address].take(job, answered))

        self.routers[own].give(self.router_s * DECIDING, decided)

    def _came(self, asked: float) -> None:
        def told() -> None:
            self.done += 1
            if self.mark:
                self.waits.append(self.clock.now - asked)
            elif self.done >= WARM * self.plan.requests:
                self.since, self.mark, self.spoken_at = self.clock.now, self._busy(), self.spoken
            if self.plan.clients:
                self.ask()

        self.client.give(self.client_s / 2, told)

    def _finished(self, own: int, address: str, tokens: int) -> None:
        def noted() -> None:
            self.books[own].take(address, -tokens)

        self.routers[own].give(self.router_s * (1 - DECIDING), noted)

    # All of them

    def pulse(self) -> None:
        """An encoder's heartbeat, and so on."""
        self.spoken += 1
        at_broker, at_router = self.beats

        def heard() -> None:
            for router in self.routers:
                router.give(at_router, _nothing)

        self.broker.give(at_broker, heard)
        self.clock.after(BEAT, self.pulse)

    def arrive(self) -> None:
        """Somebody asks, and another one later."""
        self.ask()
        if self.begun < self.plan.requests:
            self.clock.after(self.chance.expovariate(self.plan.rate), self.arrive)

    def _busy(self) -> tuple[float, ...]:
        encoders = [max(it.compute.busy, it.loop.busy) for it in self.encoders.values()]
        routers = [it.busy for it in self.routers]
        return self.broker.busy, sum(routers) / len(routers), sum(encoders) / len(encoders)

    def outcome(self) -> Outcome:
        """The figures, once all is over."""
        span = self.clock.now - self.since
        shares = [(b - a) / span for a, b in zip(self.mark, self._busy(), strict=True)]
        rate = len(self.waits) / span
        return Outcome(
            plan=self.plan,
            rate=rate,
            texts=rate * self.plan.texts,
            events=(self.spoken - self.spoken_at) / span,
            p50_ms=1e3 * percentile(self.waits, 0.5),
            p99_ms=1e3 * percentile(self.waits, 0.99),
            broker=shares[0],
            router=shares[1],
            encoder=shares[2],
        )


def simulate(plan: Plan, costs: Costs) -> Outcome:
    """The same plan and costs give the same outcome. Raises `KeyError`: no such carrier."""
    fleet = _Fleet(plan, costs)
    for _ in range(plan.encoders):
        fleet.clock.after(fleet.chance.random() * BEAT, fleet.pulse)
    if plan.clients:
        for _ in range(plan.clients):
            fleet.ask()
        # Not to the last: while nobody asks any more, nobody is at work.
        last = max(plan.requests - plan.clients, int(plan.requests * (WARM + 0.1)))
    else:
        fleet.arrive()
        last = plan.requests
    fleet.clock.run(lambda: fleet.done >= last)
    return fleet.outcome()


def _assigned(client: str, texts: int) -> Event[EncodeAssigned]:
    data = EncodeAssigned(
        request_id="",
        texts=("",) * texts,
        role="query",
        deadline=_FAR,
        skills=(),
        rows=(AssignedRow(),) * texts,
        reply_to=client,
        router="router-1",
        client=client,
    )
    return Event(data=data, source="/router/1")


def _nothing() -> None:
    pass
