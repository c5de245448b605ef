"""One storm: start everybody, do the faults, heal, drain, and gather the history."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import bus
import schemas
from bus.journal import Entry, Journal, leases
from schemas import FeedbackGiven, FleetHeartbeat
from tests.torture.journal.history import Dead, Fault, History, Kept
from tests.torture.journal.processes import Processes
from tests.torture.journal.schedule import (
    BROKER,
    CONSUMERS,
    DERIVING,
    GROUPS,
    PUBLISHERS,
    WATCHERS,
    Plan,
    poison,
)
from tests.torture.journal.witness import install, turns
from tests.torture.kit import Say

__all__ = ["Director", "Storm", "rage"]

TICK = 0.03
"""Seconds between two looks at who died."""
EVERYBODY = (BROKER, *PUBLISHERS, *CONSUMERS, *WATCHERS)
KINDS = {"pub": "publisher", "watch": "watcher", BROKER: "broker", "server": "server"}


@dataclass(frozen=True)
class Storm:
    """What came of it."""

    history: History
    faults: Counter[str]
    deaths: int
    """Consumers that died of what they handled."""
    drained: bool
    """Whether every group had finished everything in time."""
    figures: Mapping[str, int | float | str] = field(default_factory=dict)
    """What else was counted."""
    broken: tuple[str, ...] = ()
    """What did not hold that no history shows."""


def rage(plan: Plan, say: Say) -> Storm:
    """All of it, in a temporary folder and in processes of its own; none of them stays."""
    folder = Path(tempfile.mkdtemp(prefix="cj", dir="/tmp"))  # short, for sockets
    try:
        with Processes(folder, plan) as fleet:
            install(fleet.journal)
            return Director(plan, fleet, say).direct()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Director:
    """Does what the plan says to a broker and who speaks with it."""

    everybody: tuple[str, ...] = EVERYBODY

    def __init__(self, plan: Plan, fleet: Processes, say: Say) -> None:
        self._plan = plan
        self._fleet = fleet
        self._say = say
        self._done: Counter[str] = Counter()
        self._back: dict[str, float] = {}
        """When who was struck by a fault runs again (s since the start)."""
        self._frozen: set[str] = set()
        self._planted: set[str] = set()
        self._deaths = 0
        self._started = time.monotonic()
        self._told = 0.0

    def direct(self) -> Storm:
        """Start, storm, heal, drain; then read what everybody wrote."""
        fleet = self._fleet
        for name in self.everybody:
            fleet.start(name)
        for fault in self._plan.schedule():
            self.look()  # who died while the last fault took its time is no target of the next
            while self._now() < fault.at:
                self.look()
            self.strike(fault)
        while self._back:
            self.look()
        self.healed()
        drained = self._drain()
        for name in (*PUBLISHERS, *CONSUMERS, *WATCHERS):
            fleet.end(name)
        return Storm(self.history(), self._done, self._deaths, drained)

    def healed(self) -> None:
        """All faults are over."""
        while len(self._planted) < self._plan.unreadable:  # none gave occasion
            self._fleet.end(BROKER)
            self._plant()
            self._fleet.start(BROKER)

    def _now(self) -> float:
        return time.monotonic() - self._started

    # faults

    def strike(self, fault: Fault) -> None:
        """Do it; who it strikes comes back when it is over."""
        fleet, target = self._fleet, self._target(fault)
        how = "kill" if fault.kind == "stop" and target in CONSUMERS else fault.kind
        if how == "freeze":
            fleet.freeze(target)
            self._frozen.add(target)
        else:
            fleet.end(target, signal.SIGTERM if how == "stop" else signal.SIGKILL)
            if target == BROKER and len(self._planted) < self._plan.unreadable:
                self._plant()
        self._back[target] = self._now() + fault.lasts
        kind = KINDS.get(target.partition("-")[0], "consumer")
        self._done[f"{kind}: {how}"] += 1

    def _target(self, fault: Fault) -> str:
        """Whom it strikes: a consumer where its own target died before, or has finished."""
        while True:
            for name in (fault.target, *CONSUMERS):
                if name not in self._back and self._fleet.running(name):
                    return name
            self.look()

    def _plant(self) -> None:
        """What a newer version journaled, and no process of this one can decode."""
        name = f"tomorrow:{len(self._planted) + 1}"
        raw = (
            f'{{"specversion":"1.0","id":"{name}","source":"/storm/tomorrow",'
            f'"type":"{FeedbackGiven.type}","data":{{}}}}'
        )
        grace = leases.GRACE_SECONDS if self._plan.grace is None else self._plan.grace
        with (
            patch.object(leases, "GRACE_SECONDS", grace),
            closing(Journal(self._fleet.journal)) as journal,
        ):
            journal.begin()
            journal.append([Entry(FeedbackGiven.type, "/storm/tomorrow", name, raw.encode())])
            journal.commit()
        self._planted.add(name)

    def look(self) -> None:
        """Bring back who is due, and start again who died."""
        time.sleep(TICK)
        fleet = self._fleet
        for name in fleet.ended():
            self._frozen.discard(name)  # it died just before: it is to be started, not thawed
            if name in CONSUMERS:
                self._deaths += 1
            if name not in self._back and not fleet.finished(name):
                self._back[name] = self._now() + 0.1
        for name, at in list(self._back.items()):
            if self._now() >= at:
                del self._back[name]
                if name in self._frozen:
                    self._frozen.discard(name)
                    fleet.thaw(name)
                else:
                    fleet.start(name)
        if self._now() >= self._told + 10:
            self._told = self._now()
            self._say(f"{self._done.total()} faults, {self._deaths} consumers died of poison")

    # the end

    def _drain(self) -> bool:
        """Wait until all is published, every group has finished, every watcher has seen it."""
        limit = self._now() + self._plan.drain
        while self._now() < limit:
            self.look()
            if not all(map(self._fleet.finished, PUBLISHERS)):
                continue
            if asyncio.run(self.quiet(limit - self._now())):
                return True
        return False

    async def quiet(self, seconds: float) -> bool:
        """Whether the broker says that no group has anything left; the watchers' files agree."""
        try:
            async with (
                await bus.connect(self._fleet.url, source="/storm/director", patience=5) as one,
                one.watch(FleetHeartbeat) as heartbeats,
            ):
                beat = await heartbeats.get(max(0.1, min(2.0, seconds)))
                while beat.source != "/broker/1":
                    beat = await heartbeats.get(2.0)
                head = max((await one.heads()).values(), default=0)
                seen = min(map(self._fleet.last_seen, WATCHERS))
                if seen < head:  # what nobody can decode is passed over, by watchers and here
                    tail = (await one.read(after=max(0, head - 20))).events
                    head = tail[-1].sequence or 0 if tail else head
        except (TimeoutError, bus.BusError):
            return False
        lags = [count for name, count in beat.data.counters.items() if name.startswith("lag:")]
        return len(lags) == len(GROUPS) and not any(lags) and seen >= head

    def history(self) -> History:
        """What everybody wrote, and what the journal holds in the end."""
        self._fleet.end(BROKER, signal.SIGTERM)
        path = self._fleet.journal
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT sequence, type, raw FROM events ORDER BY sequence")
            journal = []
            for sequence, kind, raw in rows:
                about = schemas.header(raw)
                journal.append(
                    Kept(sequence, kind, about.id, about.previous or 0, about.causationid)
                )
            query = "SELECT grp, raw, reason FROM dead ORDER BY id"
            dead = [
                Dead(group, schemas.header(raw).id, reason)
                for group, raw, reason in database.execute(query)
            ]
        lives = self._fleet.lives
        return History(
            groups={name: frozenset(types) for name, types in GROUPS.items()},
            deriving=DERIVING,
            publishers=[life for name in PUBLISHERS for life in lives.get(name, ())],
            consumers=[life for name in CONSUMERS for life in lives.get(name, ())],
            watchers=[life for name in WATCHERS for life in lives.get(name, ())],
            journal=journal,
            dead=dead,
            turns=turns(path),
            visibility=self._plan.visibility,
            poison=poison(self._plan) | dict.fromkeys(self._planted, "is invalid"),
            unreadable=frozenset(self._planted),
            away=self._fleet.away,
        )
