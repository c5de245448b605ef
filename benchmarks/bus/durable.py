"""The durable lane: contestants that acknowledge what they have on the disk."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bus.appender import BATCH
from benchmarks.bus.nats_server import nats_server
from benchmarks.kit.children import BenchError, Child, cpu_seconds
from benchmarks.kit.measure import percentile
from benchmarks.kit.nats import nats_version

__all__ = ["LISTS", "NATS", "OURS", "UNSYNCED", "Writers", "writers"]

APPENDER = "benchmarks.bus.appender"
OURS, LISTS = "consonance", f"consonance, in lists of {BATCH}"
NATS, UNSYNCED = "NATS JetStream", "NATS JetStream, acknowledged before it is on the disk"
LEAD = 0.2
"""Seconds until they all begin."""


class Writers:
    """Some publishers, each a process, of one server (its process id)."""

    def __init__(self, name: str, publishers: list[Child], server: int) -> None:
        self.name = name
        self._publishers = publishers
        self._groups = ([child.pid for child in publishers], [server])
        self.last = 0
        """The number of the last event that was kept."""
        self.waits: list[tuple[float, float]] = []
        """p50 and p99 (ms) from handing an event over to its acknowledgement, of each `rate`."""
        self.costs: list[tuple[float, ...]] = []
        """CPU time an event (µs) of all publishers together and of the server, of each `rate`."""

    def rate(self, seconds: float) -> float:
        """Events acknowledged a second; raises `BenchError` unless each was kept, and once."""
        before = [cpu_seconds(*group) for group in self._groups]
        begin = time.monotonic() + LEAD
        for child in self._publishers:
            child.tell(begin=begin, end=begin + seconds)
        found = [child.heard() for child in self._publishers]
        count = sum(one["count"] for one in found)
        last = max(one["last"] for one in found)
        if last - self.last != count:
            raise BenchError(f"{self.name} acknowledged {count} events, kept {last - self.last}")
        self.last = last
        after = [cpu_seconds(*group) for group in self._groups]
        self.costs.append(tuple(1e6 * (b - a) / count for a, b in zip(before, after, strict=True)))
        waits = [1e3 * wait for one in found for wait in one["waits"]]
        self.waits.append((percentile(waits, 0.5), percentile(waits, 0.99)))
        return float(count / (max(one["done"] for one in found) - begin))


@contextlib.contextmanager
def writers(folder: Path, publishers: int, notes: list[str]) -> Iterator[dict[str, Writers]]:
    """Every contestant that there is, its stores in `folder`; `notes` says what is missing."""
    with contextlib.ExitStack() as stack:
        urls = {}
        for kind, name in (("single", OURS), ("lists", LISTS)):
            # The path of a socket is short, whatever that of the journal is.
            url = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory(prefix='cb'))}/bus"
            arguments = ("--log-level", "error", "--state", str(folder / kind), "--url", url)
            broker = stack.enter_context(Child("bus", *arguments))
            broker.line()
            urls[name] = (kind, url, broker.pid)
        if nats_version() is None:
            notes.append("nats-server or its client nats-py is not installed: left out.")
        else:
            server = stack.enter_context(nats_server(folder / "synced"))
            notes.append(f"{NATS} has on the disk what it acknowledges by {server.how}.")
            urls[NATS] = ("nats", server.url, server.pid)
            server = stack.enter_context(nats_server(folder / "unsynced", synced=False))
            urls[UNSYNCED] = ("nats", server.url, server.pid)
        found = {}
        for name, (kind, url, pid) in urls.items():
            children = [
                stack.enter_context(Child(APPENDER, kind, url, str(number)))
                for number in range(publishers)
            ]
            for child in children:
                child.line()
            found[name] = Writers(name, children, pid)
        yield found
