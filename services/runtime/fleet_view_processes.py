"""The processes of a fleet, and the requests that its router counts, from heartbeats alone."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from schemas import FleetHeartbeat
from services.runtime.fleet_view_status import Bar, Minute, ProcessStatus, RequestsStatus
from services.runtime.histogram import Buckets

__all__ = ["DROPPED", "SILENCE", "SLOT", "Processes", "Requests"]

SILENCE: Final = 6.0
"""Seconds without a heartbeat after which a process is shown as gone."""

DROPPED: Final = 60.0
"""Seconds after which it is shown no more."""

STOPPED: Final = 15.0
"""The same for one that said that it has stopped."""

MOST: Final = 512
"""Processes that are remembered."""

ROUTERS: Final = 16
"""Routers that are; there is one, as a rule."""

SLOT: Final = 5
"""Seconds that one bar of the history stands for."""

SLOTS: Final = 60
"""Bars of the history."""

LATENCY: Final = "latency_ms"

COUNTED: Final = ("answered", "failed")

Counters = Mapping[str, int | float]


class Processes:
    """The last word of every process, and when it came in monotonic seconds."""

    def __init__(self) -> None:
        self._heard: OrderedDict[tuple[str, str], tuple[float, FleetHeartbeat]] = OrderedDict()

    def hear(self, beat: FleetHeartbeat, now: float) -> bool:
        """Take note of a heartbeat; whether it is of another process than the last one was."""
        key = beat.service, beat.instance
        before = self._heard.get(key)
        self._heard[key] = now, beat
        self._heard.move_to_end(key)
        while len(self._heard) > MOST:
            self._heard.popitem(last=False)
        if before is None:
            return False
        # Nobody starts twice: in a container the next process has the same pid.
        again = beat.state == "starting" != before[1].state
        return again or before[1].pid != beat.pid

    def alive(self, now: float, service: str | None = None) -> list[FleetHeartbeat]:
        """What the processes said, or those of one service, that were heard lately and have not
        stopped."""
        return [
            beat
            for (name, _), (at, beat) in sorted(self._heard.items(), key=_place)
            if service in (None, name) and now - at < SILENCE and beat.state != "stopped"
        ]

    def snapshot(self, now: float) -> tuple[ProcessStatus, ...]:
        """All of them, by service and number; those that are long gone are forgotten."""
        for key, (at, beat) in list(self._heard.items()):
            if now - at > (STOPPED if beat.state == "stopped" else DROPPED):
                del self._heard[key]
        return tuple(
            ProcessStatus(
                service=beat.service,
                instance=beat.instance,
                pid=beat.pid,
                state="gone" if beat.state != "stopped" and now - at >= SILENCE else beat.state,
                queue=beat.queue,
                rss_bytes=beat.rss_bytes,
                age_s=round(now - at, 1),
                counters={name: it for name, it in beat.counters.items() if _is_plain(name)},
                trouble=beat.trouble,
            )
            for _, (at, beat) in sorted(self._heard.items(), key=_place)
        )


@dataclass
class _Slot:
    """What ended within one bar; fractional, because heartbeats do not keep to its bounds."""

    answered: float = 0.0
    failed: float = 0.0
    took: Buckets | None = None


@dataclass
class _Router:
    """The last word of one router."""

    pid: int
    at: float
    counters: Counters


@dataclass
class Requests:
    """Turns the router's counters, which only grow, into how many there were when."""

    started: float
    """When this view began; seconds since the epoch, as all times here."""
    _routers: dict[str, _Router] = field(default_factory=dict)
    _slots: deque[tuple[int, _Slot]] = field(default_factory=deque)

    def hear(self, beat: FleetHeartbeat, now: float) -> None:
        """A router's heartbeat: what it counted since its last one is laid into the bars."""
        before = self._routers.get(beat.instance)
        self._routers[beat.instance] = _Router(beat.pid, now, beat.counters)
        if len(self._routers) > ROUTERS:
            del self._routers[min(self._routers, key=lambda it: self._routers[it].at)]
        if before is None or before.at >= now:
            return
        # A process that is new began to count at nothing, in a container under the same pid.
        fell = any(beat.counters.get(it, 0) < before.counters.get(it, 0) for it in COUNTED)
        known: Counters = {} if fell or before.pid != beat.pid else before.counters
        grown = {name: _grown(beat.counters, known, name) for name in COUNTED}
        took = Buckets.of(beat.counters, LATENCY)
        earlier = Buckets.of(known, LATENCY)
        if took is not None and earlier is not None:
            took = took.plus(earlier, -1.0)
        begin = max(before.at, now - SLOT * SLOTS)
        for start in range(int(begin // SLOT) * SLOT, int(now) + 1, SLOT):
            share = (min(now, start + SLOT) - max(begin, start)) / (now - begin)
            if share > 0:
                slot = self._slot(start)
                slot.answered += share * grown["answered"]
                slot.failed += share * grown["failed"]
                if took is not None:
                    slot.took = _grown_by(slot.took, took, share)

    def snapshot(self, now: float) -> RequestsStatus:
        """The last minute by the routers that are alive, and the bars up to the last whole one."""
        minutes = [
            _minute(router.counters)
            for router in self._routers.values()
            if now - router.at < SILENCE
        ]
        minute = minutes[0] if len(minutes) == 1 else _together(minutes)
        last = int(now // SLOT) * SLOT  # it is not whole yet
        first = max(int(self.started // SLOT) * SLOT, last - SLOT * SLOTS)
        known = dict(self._slots)
        bars = [_bar(start, known.get(start)) for start in range(first, last, SLOT)]
        return RequestsStatus(minute=minute, history=tuple(bars))

    def _slot(self, start: int) -> _Slot:
        for known, slot in reversed(self._slots):
            if known == start:
                return slot
        slot = _Slot()
        self._slots.append((start, slot))
        while len(self._slots) > SLOTS + 2:
            self._slots.popleft()
        return slot


def _is_plain(name: str) -> bool:
    """Bounds of histograms and digests of cards are told elsewhere, and there are many."""
    return "_le_" not in name and not name.startswith("card:")


def _place(item: tuple[tuple[str, str], object]) -> tuple[str, int, str]:
    """By service, then by number."""
    service, instance = item[0]
    return service, int(instance) if instance.isdecimal() else 0, instance


def _grown(counters: Counters, before: Counters, name: str) -> float:
    return max(0.0, float(counters.get(name, 0)) - float(before.get(name, 0)))


def _grown_by(slot: Buckets | None, more: Buckets, share: float) -> Buckets:
    if slot is None:
        nothing = Buckets(more.bounds, (0.0,) * len(more.bounds), 0.0, 0.0)
        return nothing.plus(more, share)
    return slot.plus(more, share)


def _minute(counters: Counters) -> Minute:
    requests, failed = (int(counters.get(f"minute_{it}", 0)) for it in ("requests", "failed"))
    answered = requests > failed
    return Minute(
        requests=requests,
        texts=int(counters.get("minute_texts", 0)),
        failed=failed,
        p50_ms=float(counters.get("p50_ms", 0.0)) if answered else None,
        p95_ms=float(counters.get("p95_ms", 0.0)) if answered else None,
    )


def _together(minutes: list[Minute]) -> Minute:
    """Of several routers the counts are summed, and the slowest tells how long it takes."""
    return Minute(
        requests=sum(it.requests for it in minutes),
        texts=sum(it.texts for it in minutes),
        failed=sum(it.failed for it in minutes),
        p50_ms=max((it.p50_ms for it in minutes if it.p50_ms is not None), default=None),
        p95_ms=max((it.p95_ms for it in minutes if it.p95_ms is not None), default=None),
    )


def _bar(start: int, slot: _Slot | None) -> Bar:
    slot = slot or _Slot()
    answered, failed = round(slot.answered), round(slot.failed)
    took = slot.took if answered else None
    p50, p95 = (None, None) if took is None else (took.quantile(0.50), took.quantile(0.95))
    return Bar(
        time=datetime.fromtimestamp(start, UTC),
        requests=answered + failed,
        failed=failed,
        p50_ms=None if p50 is None else round(p50, 1),
        p95_ms=None if p95 is None else round(p95, 1),
    )
