"""The live lane: contestants that carry the same events from one process to another."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bus.live_ends import STEP
from benchmarks.kit.children import BenchError, Child, cpu_seconds
from benchmarks.kit.measure import percentile

__all__ = ["CONTESTANTS", "Line", "joined", "lines"]

ENDS = "benchmarks.bus.live_ends"
CONTESTANTS = {
    "consonance": ("broker", ""),
    "our broker, bare pyzmq ends": ("broker", "_bare"),
    "bare pyzmq proxy": ("proxy", "_bare"),
}
"""What is in the middle, and which ends."""
PAUSE = 0.002
"""Seconds before an event that is to be alone."""


class Line:
    """A publisher, what is in the middle (its process id), and a subscriber: three processes."""

    def __init__(self, name: str, publisher: Child, middle: int, subscriber: Child) -> None:
        self.name = name
        self._ends = (publisher, subscriber)
        self._all = (publisher.pid, middle, subscriber.pid)
        self.costs: list[tuple[float, ...]] = []
        """CPU time an event (µs) of publisher, middle and subscriber, of each `rate`."""

    def rate(self, count: int) -> float:
        """Events a second from the first sent to the last arrived; raises `BenchError`."""
        count = -(-count // STEP) * STEP
        before = [cpu_seconds(pid) for pid in self._all]
        sent, came = self._run(count=count)
        after = [cpu_seconds(pid) for pid in self._all]
        self.costs.append(tuple(1e6 * (b - a) / count for a, b in zip(before, after, strict=True)))
        return count / (came[-1] - sent[0])

    def latency(self, count: int) -> tuple[float, float]:
        """p50 and p99 (ms) from before `publish` to the event in the hands of who watches."""
        sent, came = self._run(count=count, pause=PAUSE)
        waits = [1e3 * (b - a) for a, b in zip(sent, came, strict=True)]
        return percentile(waits, 0.5), percentile(waits, 0.99)

    def _run(self, **order: float) -> tuple[list[float], list[float]]:
        for end in self._ends:
            end.tell(**order)
        sent, came = (end.heard() for end in self._ends)
        if sent["dropped"]:
            raise BenchError(f"{self.name} dropped {sent['dropped']} events")
        self.size = came["size"] / order["count"]
        """Bytes of text in an event, on average, as they arrived."""
        return sent["at"], came["at"]


@contextlib.contextmanager
def lines() -> Iterator[dict[str, Line]]:
    """Every contestant, its processes started and heard; raises `BenchError`."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, (middle, ends) in CONTESTANTS.items():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cb"))
            found[name] = _line(stack, name, Path(folder), middle, ends)
        yield found


def _line(stack: contextlib.ExitStack, name: str, folder: Path, middle: str, ends: str) -> Line:
    if middle == "broker":
        arguments = ("--log-level", "error", "--state", str(folder))
        carrier = stack.enter_context(Child("bus", *arguments))
    else:
        carrier = stack.enter_context(Child(ENDS, "proxy", str(folder)))
    carrier.line()
    place = f"ipc://{folder}/bus" if ends == "" else str(folder)
    return _with_ends(stack, name, carrier.pid, ends, place)


def joined(stack: contextlib.ExitStack, name: str, url: str, middle: int) -> Line:
    """Our ends on a bus that runs already, as the process `middle`; raises `BenchError`."""
    return _with_ends(stack, name, middle, "", url)


def _with_ends(stack: contextlib.ExitStack, name: str, middle: int, ends: str, place: str) -> Line:
    made = {}
    pair = dict(zip(("subscribe", "publish"), socket.socketpair(), strict=True))
    for role, credit in pair.items():
        descriptor = credit.fileno()
        child = Child(ENDS, role + ends, place, str(descriptor), descriptors=[descriptor])
        made[role] = stack.enter_context(child)
        child.line()
    for credit in pair.values():
        credit.close()  # each has its copy
    return Line(name, made["publish"], middle, made["subscribe"])
