"""A storm on three servers: as on a broker, and at times two of the three are down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import nats
from msgspec.structs import replace
from nats.aio.client import Client

import bus
from schemas import Event, FeedbackGiven
from tests.bus.nats_server import nats_version
from tests.torture.cluster import witness
from tests.torture.cluster.schedule import HOWS, MAJORITY, ClusterPlan
from tests.torture.cluster.servers import REPLICAS, SERVERS, Cluster
from tests.torture.journal.history import Acknowledged, Attempted, Fault, History, Life, Record
from tests.torture.journal.processes import Processes
from tests.torture.journal.roles import PublisherRole, Role
from tests.torture.journal.schedule import (
    CONSUMERS,
    DERIVING,
    GROUPS,
    PUBLISHERS,
    WATCHERS,
    Plan,
    poison,
)
from tests.torture.journal.storm import Director, Storm
from tests.torture.kit import Say

__all__ = ["WITHOUT_MAJORITY", "rage"]

NAME = "director"
SOURCE = f"/storm/{NAME}"
SHORT = 1.0
"""Seconds that one waits who expects to be refused."""
WITHOUT_MAJORITY = 20
"""Events that are published each time that two servers are down, and once more afterwards."""


def rage(plan: Plan, say: Say) -> Storm:
    """All of it, in a temporary folder and in processes of its own; none of them stays."""
    assert isinstance(plan, ClusterPlan)
    folder = Path(tempfile.mkdtemp(prefix="cc"))
    try:
        with (
            patch.dict(os.environ, {REPLICAS: str(len(SERVERS))}),
            Cluster(folder) as servers,
            _Fleet(folder, plan, servers) as fleet,
        ):
            director = _Director(plan, fleet, say)
            asyncio.run(director.prepare())
            return director.direct()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Fleet(Processes):
    """The servers are processes as the others are."""

    def __init__(self, folder: Path, plan: Plan, servers: Cluster) -> None:
        super().__init__(folder, plan)
        self.url = servers.url
        self._servers = servers
        self._down: set[str] = set()

    def _begin(self, name: str, number: int) -> int:
        if name not in SERVERS:
            return super()._begin(name, number)
        self._down.discard(name)
        return self._servers.start(name)

    def _role(self, name: str, number: int) -> Role:
        role = super()._role(name, number)
        return replace(role, ingress=False) if isinstance(role, PublisherRole) else role

    def running(self, name: str) -> bool:
        return super().running(name) if name not in SERVERS else name not in self._down

    def freeze(self, name: str) -> bool:
        if name not in SERVERS:
            return super().freeze(name)
        self._since.setdefault(name, time.time())
        self._servers.freeze(name)
        return True

    def thaw(self, name: str) -> None:
        if name not in SERVERS:
            return super().thaw(name)
        self._servers.thaw(name)
        self.away.setdefault(name, []).append((self._since.pop(name), time.time()))

    def end(self, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = 20) -> None:
        if name not in SERVERS:
            return super().end(name, number, seconds)
        self._since.setdefault(name, time.time())
        self._down.add(name)
        self._servers.end(name, kill=number == signal.SIGKILL)

    def ended(self) -> list[str]:
        died = self._servers.died()
        for name in died:  # of itself: that is for the verdict
            self.end(name)
        return super().ended() + died


class _Director(Director):
    everybody = (*PUBLISHERS, *CONSUMERS, *WATCHERS)

    def __init__(self, plan: ClusterPlan, fleet: _Fleet, say: Say) -> None:
        super().__init__(plan, fleet, say)
        self._records: list[Record] = []
        self._chance = Random(f"{plan.seed} servers")
        self._refused = 0
        self._broken: list[str] = []
        self._recovered = 0.0

    async def prepare(self) -> None:
        """The streams are there, every state of a group is kept, some events are unreadable."""
        async with await bus.connect(self._fleet.url, source=SOURCE, patience=60):
            pass
        client = await nats.connect(self._fleet.url.split(","))
        try:
            await witness.install(client)
            for n in range(self._plan.unreadable):
                name = f"tomorrow:{n + 1}"
                raw = (
                    f'{{"specversion":"1.0","id":"{name}","source":"/storm/tomorrow",'
                    f'"type":"{FeedbackGiven.type}","data":{{}}}}'
                )
                subject = witness.NAMES.event(FeedbackGiven.type, "/storm/tomorrow", name)
                await witness.plant(client, subject, raw.encode())
                self._planted.add(name)
        finally:
            await client.close()

    def strike(self, fault: Fault) -> None:
        if fault.kind == MAJORITY or fault.target in SERVERS:
            while any(name in self._back for name in SERVERS):  # never two by chance
                self.look()
        if fault.kind == MAJORITY:
            asyncio.run(self._without_majority(fault.lasts))
        else:
            super().strike(fault)

    def healed(self) -> None:
        """Nothing is left to be planted."""

    # two of three

    async def _without_majority(self, seconds: float) -> None:
        """Nothing is acknowledged meanwhile; afterwards the same events are taken, once."""
        fleet = self._fleet
        how = self._chance.choice(HOWS)
        down = self._chance.sample(SERVERS, 2)
        first = len(self._records)
        async with (
            await bus.connect(fleet.url, source=SOURCE, patience=60) as one,
            await self._hasty() as hasty,
        ):
            events = [_event(first + n) for n in range(WITHOUT_MAJORITY)]
            for name in down:
                fleet.freeze(name) if how == "freeze" else fleet.end(name)
            over = time.monotonic() + seconds
            for event in events:
                if time.monotonic() >= over:
                    break
                self._records.append(Attempted(event.id))
                try:
                    sequence = (await hasty.publish(event))[0]
                except bus.Unreachable:
                    self._refused += 1
                else:
                    self._records.append(Acknowledged(event.id, sequence or 0))
                    self._broken.append(f"majority: {event.id} was acknowledged without one")
            await asyncio.sleep(max(0.0, over - time.monotonic()))
            for name in down:
                fleet.thaw(name) if how == "freeze" else fleet.start(name)
            begun = time.monotonic()
            for event in events:
                self._records.append(Attempted(event.id))
                sequence = (await one.publish(event))[0]
                if event is events[0]:
                    self._recovered = max(self._recovered, time.monotonic() - begun)
                self._records.append(Acknowledged(event.id, sequence or 0))
        self._done[f"two servers: {how}"] += 1
        self._say(f"two servers were down for {seconds:g} s ({how}); all goes on")

    async def _hasty(self) -> bus.Bus:
        """Who is told soon that there is no majority; what is frozen stays so until it was told."""
        async with asyncio.timeout(60):
            while True:  # as often as it takes: some server may have come back just now
                with contextlib.suppress(bus.Unreachable):
                    return await bus.connect(self._fleet.url, source=SOURCE, patience=SHORT)

    # the end

    async def quiet(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(1.0, seconds)):
                return await self._done_with_all()
        except (TimeoutError, bus.BusError, nats.errors.Error):
            return False

    async def _done_with_all(self) -> bool:
        async with await bus.connect(self._fleet.url, source=SOURCE, patience=20) as one:
            heads = await one.heads()
        client = await nats.connect(self._fleet.url.split(","))
        try:
            for group, kinds in GROUPS.items():
                state = await witness.state(client, group)
                far = all(state.cursors.get(kind, 0) >= heads.get(kind, 0) for kind in kinds)
                if state.rows or not far:
                    return False
        finally:
            await client.close()
        return min(map(self._fleet.last_seen, WATCHERS)) >= max(heads.values(), default=0)

    def direct(self) -> Storm:
        storm = super().direct()
        figures: dict[str, int | float | str] = {
            "version of the servers": nats_version(),
            "publications refused without a majority": self._refused,
            "longest wait after a majority was back (s)": round(self._recovered, 1),
        }
        if not self._refused and any(self._done[f"two servers: {how}"] for how in HOWS):
            self._broken.append("majority: nobody was refused while two servers were down")
        return Storm(
            storm.history, storm.faults, storm.deaths, storm.drained, figures, tuple(self._broken)
        )

    def history(self) -> History:
        return asyncio.run(self._read())

    async def _read(self) -> History:
        client = await nats.connect(self._fleet.url.split(","))
        try:
            return await self._history_of(client)
        finally:
            await client.close()

    async def _history_of(self, client: Client) -> History:
        fleet, plan, names = self._fleet, self._plan, witness.NAMES
        streams = {}
        for name in (names.journal, names.groups, names.dead):
            streams[name], counts = await witness.stored(client, name)
            self._broken += witness.apart(name, counts)
        dead = witness.dead_letters(streams[names.dead])
        lives = fleet.lives
        away: dict[str, Any] = dict(fleet.away)
        away["broker"] = [each for name in SERVERS for each in away.pop(name, ())]
        publishers = [life for name in PUBLISHERS for life in lives.get(name, ())]
        return History(
            groups={name: frozenset(types) for name, types in GROUPS.items()},
            deriving=DERIVING,
            publishers=[*publishers, Life(NAME, 1, self._records)],
            consumers=[life for name in CONSUMERS for life in lives.get(name, ())],
            watchers=[life for name in WATCHERS for life in lives.get(name, ())],
            journal=witness.kept(streams[names.journal]),
            dead=list(dead.values()),
            turns=witness.turns(streams[names.groups], dead, plan.visibility),
            visibility=plan.visibility,
            poison=poison(plan) | dict.fromkeys(self._planted, "is invalid"),
            unreadable=frozenset(self._planted),
            away=away,
        )


def _event(number: int) -> Event[Any]:
    data = FeedbackGiven(query="", relevant=("a",))
    return Event(data=data, source=SOURCE, id=f"{NAME}:{number}")
