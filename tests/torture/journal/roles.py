"""The processes of a storm: a broker, publishers, consumers, watchers; each may die anywhere."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from time import time
from typing import Any, Literal

import msgspec

import bus
import bus.__main__
import bus.journal.leases
from bus import Bus, Consumer, Delivery
from schemas import Event, LearningBatchRejected, payload_type
from tests.torture.journal.history import Delivered, Failed, Log, Seen, Step
from tests.torture.journal.publishing import publish

__all__ = ["BrokerRole", "ConsumerRole", "PublisherRole", "Role", "WatcherRole", "main"]

PATIENCE = 60.0


class _Role(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    number: int
    """Which life of that name it is, from 1."""
    seed: int
    url: str
    log: str

    def chance(self) -> Random:
        return Random(f"{self.seed} {self.name} {self.number}")


class BrokerRole(_Role, frozen=True, kw_only=True, tag=True):
    """`python -m bus`."""

    state: str
    config: str
    grace: float | None


class PublisherRole(_Role, frozen=True, kw_only=True, tag=True):
    """Publishes events `NAME:n` from `first` to `last`, `rate` in a second."""

    first: int
    last: int
    rate: float
    poisons: dict[int, str]
    unknown: list[str]
    """Ids that a life before began to publish, and does not know what became of."""
    ingress: bool


class ConsumerRole(_Role, frozen=True, kw_only=True, tag=True):
    """A member of `group`, which may derive an event from each that it acknowledges."""

    group: str
    types: tuple[str, ...]
    most: int
    visibility: float
    derives: bool


class WatcherRole(_Role, frozen=True, kw_only=True, tag=True):
    """Watches every type from `after` on."""

    types: tuple[str, ...]
    after: int


Role = BrokerRole | PublisherRole | ConsumerRole | WatcherRole


def main(role: Role) -> int:
    """Play it until it is killed; what it has to say goes to `log`, and beside it."""
    out = os.open(role.log + ".txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if isinstance(role, BrokerRole):
        if role.grace is not None:
            bus.journal.leases.GRACE_SECONDS = role.grace
        arguments = ["--state", role.state, "--config", role.config, "--log-level", "warning"]
        return bus.__main__.main(arguments)
    logging.basicConfig(stream=sys.stderr, level="ERROR")
    log = Log(Path(role.log))
    try:
        asyncio.run(_play(role, log))
    except Exception:
        log.write(Failed(traceback.format_exc(limit=-3)))
        return 1
    return 0


async def _play(role: Role, log: Log) -> None:
    async with await bus.connect(role.url, source=f"/storm/{role.name}", patience=PATIENCE) as one:
        if isinstance(role, PublisherRole):
            await publish(one, log, role, role.chance())
        elif isinstance(role, ConsumerRole):
            await _Handler(one, log, role).run()
        elif isinstance(role, WatcherRole):
            async with one.watch(_kinds(role.types), after=role.after) as events:
                async for event in events:
                    log.write(Seen(event.sequence or 0, event.id))


def _kinds(types: Sequence[str]) -> list[Any]:
    return [payload_type(name) for name in types]


class _Handler:
    """Takes what is there, handles it in order, ends it: together, or one by one."""

    def __init__(self, one: Bus, log: Log, role: ConsumerRole) -> None:
        self._bus = one
        self._log = log
        self._role = role
        self._chance = role.chance()

    async def run(self) -> None:
        role = self._role
        while True:
            member = self._bus.consume(
                role.group, _kinds(role.types), max_leases=role.most, visibility=role.visibility
            )
            async with member as work:
                for _ in range(self._chance.randint(50, 200)):
                    batch = await self._take(work)
                    # At times it leaves with all in its hands, as a service that stops does.
                    if self._chance.random() < 0.01:
                        break
                    await self._handle(batch)

    async def _take(self, work: Consumer) -> list[Delivery]:
        batch = [await work.get()]
        try:
            while len(batch) < self._role.most:
                batch.append(await work.get(0))
        except TimeoutError:
            pass
        at = time()
        self._log.write(
            *(Delivered(at, d.lease, d.event.sequence or 0, d.event.id, d.attempt) for d in batch)
        )
        return batch

    async def _handle(self, batch: list[Delivery]) -> None:
        good: list[Delivery] = []
        for delivery in batch:
            what = _poison(delivery.event)
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "refuse":
                await self._nack(delivery, "this one is always refused")
            elif delivery.attempt == 1 and self._chance.random() < 0.01:
                await self._nack(delivery, "not at the first time")
            elif delivery.attempt == 1 and self._chance.random() < 0.01:
                until = datetime.now(UTC) + timedelta(seconds=self._chance.random() / 5)
                await self._end("defer", [delivery], delivery.defer(until))
            elif self._chance.random() < 0.1:
                await self._ack([delivery])
            else:
                good.append(delivery)
        if good and not await self._ack(good) and len(good) > 1:
            for delivery in good:  # one of them was too late, and spoilt it for all
                await self._ack([delivery])

    async def _nack(self, delivery: Delivery, reason: str) -> None:
        await self._end("nack", [delivery], delivery.nack(delay=0.02, reason=reason))

    async def _ack(self, deliveries: list[Delivery]) -> bool:
        derived = [_derived(d.event, self._bus.source) for d in deliveries if self._role.derives]
        return await self._end("ack", deliveries, self._bus.ack(deliveries, publish=derived))

    async def _end(
        self, how: Literal["ack", "nack", "defer"], deliveries: list[Delivery], call: Any
    ) -> bool:
        leases = tuple(delivery.lease for delivery in deliveries)
        self._log.write(Step(how, "try", leases))
        try:
            await call
        except bus.StaleLease:
            self._log.write(Step(how, "stale", leases))
            return False
        except bus.Unreachable:
            self._log.write(Step(how, "unknown", leases))
            return True
        self._log.write(Step(how, "ok", leases))
        return True


def _poison(event: Event[Any]) -> str:
    return getattr(event.data, "query", "") if event.causation_id is None else ""


def _derived(event: Event[Any], source: str) -> Event[Any]:
    data = LearningBatchRejected(batch_id=event.id, reason="derived")
    return event.derive(data, source=source)
