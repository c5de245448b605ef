"""The bus and the router under load, measured by the CPU time that a request takes of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Final

from benchmarks.bus import durable, live
from benchmarks.bus.durable import Writers
from benchmarks.encode.contestant import Contestant
from benchmarks.kit.children import Child, cpu_seconds
from benchmarks.kit.fleet import fresh_state
from benchmarks.kit.nats import nats_server
from benchmarks.scale.costs import BROKER, NATS, Carrier, Path

__all__ = ["ENCODERS", "Size", "measure", "walk"]

ENCODERS: Final = (1, 10, 100)
CLIENTS: Final = 64
WARM: Final = 256
"""Requests before those that count."""
TIMES: Final = 3
"""Runs, of which the cheapest counts."""
LIST: Final = 16
"""Texts of a request, where it has several."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    requests: int = 4000
    beats: int = 4000
    events: int = 40_000
    """Live, from one end to the other."""
    seconds: float = 1.5
    """Durable."""
    publishers: int = 8


@dataclass
class _Stage:
    """A bus and a router that run, without encoders."""

    url: str
    broker: int
    router: int
    log: Folder
    state: Folder

    def spent(self) -> tuple[float, float]:
        """CPU seconds so far of both."""
        return cpu_seconds(self.broker), cpu_seconds(self.router)


def measure(name: str, size: Size, say: Say) -> Carrier:
    """Raises `BenchError`, `NatsFailed`."""
    paths: list[Path] = []
    light: Path | None = None
    beat = (0.0, 0.0)
    for encoders in ENCODERS:
        say(f"{name}: {encoders} stand-ins")
        with _stage(name) as stage, _standins(stage, encoders) as standins:
            if light is None:
                light = _path(stage, standins, 1, 1, size.requests, CLIENTS)
            paths.append(_path(stage, standins, encoders, 1, size.requests))
            if encoders == ENCODERS[-1]:
                paths.append(_path(stage, standins, encoders, LIST, size.requests // 4))
                before = stage.spent()
                standins.tell(beats=size.beats)
                standins.heard()
                time.sleep(0.3)  # what was sent last arrives
                beat = _each(before, stage.spent(), size.beats)
    say(f"{name}: one more who hears")
    hear, fan = _hearing(name, size)
    say(f"{name}: live and durable")
    rate, live_us = _live(name, size)
    durable_rate, how, stored = _durable(name, size)
    return Carrier(
        name=name,
        light=light or paths[0],
        paths=tuple(paths),
        beat_broker_us=beat[0],
        beat_router_us=beat[1],
        hear_us=hear,
        fan_us=fan,
        live=rate,
        live_broker_us=live_us,
        durable=durable_rate,
        durable_how=how,
        stored=stored,
    )


@contextlib.contextmanager
def _bus(name: str, state: Folder) -> Iterator[tuple[str, int]]:
    """URL, and the process that carries."""
    if name == BROKER:
        with Child("bus", "--log-level", "error", "--state", str(state)) as broker:
            broker.line()
            yield f"ipc://{state}/bus", broker.pid
        return
    with nats_server(state / "nats") as server:
        yield server.url, server.pid


@contextlib.contextmanager
def _stage(name: str) -> Iterator[_Stage]:
    with fresh_state() as state, _bus(name, state) as (url, broker):
        words = ("--state", str(state), "--bus", url, "--log-level", "error")
        with Child("services.router", *words) as router:
            yield _Stage(url, broker, router.pid, state / "benchmark.log", state)


@contextlib.contextmanager
def _standins(stage: _Stage, count: int) -> Iterator[Child]:
    with Child("benchmarks.scale.standins", stage.url, str(count)) as child:
        child.line()
        yield child


def walk(name: str, encoders: int, requests: int) -> Path:
    """Single texts on a bus and a router of their own, all at once."""
    with _stage(name) as stage, _standins(stage, encoders) as standins:
        return _path(stage, standins, encoders, 1, requests)


def _path(
    stage: _Stage, standins: Child, encoders: int, texts: int, requests: int, clients: int = 0
) -> Path:
    """With so many clients; 0: all requests at once. The cheapest of some runs: what else a machine
    does makes a request dearer, and never cheaper."""
    with Contestant("fleet", {"bus": stage.url}, stage.log) as asking:
        _ask(asking, WARM, texts, clients, "warm")
        found = []
        for run in range(TIMES):
            before, answering = stage.spent(), cpu_seconds(standins.pid)
            seconds, cpu = _ask(asking, requests, texts, clients, f"text {run}")
            broker, router = _each(before, stage.spent(), requests)
            path = Path(
                encoders=encoders,
                texts=texts,
                requests=requests,
                waiting=clients or requests,
                rate=requests / seconds,
                broker_us=broker,
                router_us=router,
                answers_us=1e6 * (cpu_seconds(standins.pid) - answering) / requests,
                clients_us=1e6 * cpu / requests,
            )
            found.append(path)
    return min(found, key=lambda path: path.broker_us + path.router_us)


def _ask(
    asking: Contestant, requests: int, texts: int, clients: int, word: str
) -> tuple[float, float]:
    """Seconds, and CPU seconds of the clients."""
    asked = [f"{word} {number} of the calibration" for number in range(requests * texts)]
    outcome = asking.encode(asked, *(("clients", clients) if clients else ("blocks", texts)))
    return outcome.seconds, outcome.cpu


def _each(before: tuple[float, ...], after: tuple[float, ...], count: int) -> tuple[float, float]:
    first, second = (1e6 * (b - a) / count for a, b in zip(before, after, strict=True))
    return first, second


def _hearing(name: str, size: Size) -> tuple[float, float]:
    """Microseconds for one more who hears each request: its own, and the broker's."""
    with _stage(name) as stage, _standins(stage, 1) as standins:
        alone = _path(stage, standins, 1, 1, size.requests)
        with _standins(stage, 0) as ear:
            before = cpu_seconds(ear.pid)
            shared = _path(stage, standins, 1, 1, size.requests)
            asked = TIMES * size.requests + WARM
            heard = 1e6 * (cpu_seconds(ear.pid) - before) / asked
    return heard, max(shared.broker_us - alone.broker_us, 0.0)


def _live(name: str, size: Size) -> tuple[float, float]:
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(fresh_state())
        url, broker = stack.enter_context(_bus(name, state))
        line = live.joined(stack, name, url, broker)
        line.rate(max(1, size.events // 4))
        line.costs.clear()
        rate = line.rate(size.events)
        return rate, line.costs[0][1]


def _durable(name: str, size: Size) -> tuple[float, str, float]:
    """Events a second, how they are kept, and the bytes that each takes."""
    with fresh_state() as state:
        with contextlib.ExitStack() as stack:
            if name == NATS:
                server = stack.enter_context(nats_server(state / "nats", synced=True))
                url, pid, how = server.url, server.pid, server.how
            else:
                url, pid = stack.enter_context(_bus(name, state))
                how = "fsync before the acknowledgement"
            children = [
                stack.enter_context(Child(durable.APPENDER, "single", url, str(number)))
                for number in range(size.publishers)
            ]
            for child in children:
                child.line()
            some = Writers(name, children, pid)
            some.rate(min(0.5, size.seconds))
            rate = some.rate(size.seconds)
        # The server has ended: what it writes aside is in the files.
        files = (*state.glob("journal.sqlite*"), *(state / "nats").rglob("*.blk"))
        return rate, how, sum(file.stat().st_size for file in files) / some.last
