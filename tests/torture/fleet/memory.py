"""What each process of the fleet holds, as the system tells it: memory, files, threads, maps."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.torture.fleet.faults import family

__all__ = ["Holding", "Sample", "Sampler", "counted", "holding", "sample"]

EVERY: Final = 3.0
"""Seconds between two samples."""

OWN: Final = ("Private_Clean:", "Private_Dirty:")


@dataclass(frozen=True)
class Sample:
    """One look at one process."""

    at: float
    """Seconds, monotonic."""
    own: int
    """Bytes that no other process shares (USS)."""
    resident: int
    """Bytes in memory, shared ones too (RSS)."""


@dataclass(frozen=True)
class Holding:
    """What may leak, counted."""

    threads: Counter[str] = field(default_factory=Counter)
    """By name; `ZMQbg/IO/0` is ZeroMQ's."""
    files: Counter[str] = field(default_factory=Counter)
    """Descriptors by kind: `socket`, `pipe`, `anon_inode:[eventfd]`, and the name of each file."""
    mappings: int = 0
    """Stretches of mapped memory, libraries apart: those come as they are needed."""
    cards: Counter[str] = field(default_factory=Counter)
    """Mapped cards by file name; one whose file is gone ends in ` (deleted)`."""
    shared: frozenset[str] = frozenset()
    """Files below /dev/shm and the temporary folder that it has open or mapped."""

    @property
    def running(self) -> int:
        """How many threads it has."""
        return self.threads.total()

    @property
    def descriptors(self) -> int:
        """How many it has open."""
        return self.files.total()


def holding(pid: int) -> Holding:
    """What a process holds now; raises `OSError` where it is gone."""
    base = Path(f"/proc/{pid}")
    files: Counter[str] = Counter()
    shared: set[str] = set()
    for number in os.listdir(base / "fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(base / "fd" / number)
            files[_kind(target)] += 1
            if _is_shared(target):
                shared.add(target)
    cards: Counter[str] = Counter()
    lines = (base / "maps").read_text().splitlines()
    paths = {line.split(None, 5)[5] for line in lines if line.count("/")}
    for path in paths:
        if ".lora.arrow" in path:
            cards[path.rpartition("/")[2]] += 1
        if _is_shared(path):
            shared.add(path)
    threads: Counter[str] = Counter()
    for task in os.listdir(base / "task"):
        with contextlib.suppress(OSError):
            threads[(base / "task" / task / "comm").read_text().strip()] += 1
    mappings = sum(".so" not in line for line in lines)
    return Holding(threads, files, mappings, cards, frozenset(shared))


def _kind(target: str) -> str:
    """`socket:[123]` is a socket, `anon_inode:[eventfd]` what it says, a file bears its name."""
    if target.startswith("/"):
        return target.rpartition("/")[2]
    return target if target.startswith("anon_inode") else target.partition(":")[0]


def _is_shared(path: str) -> bool:
    return path.startswith("/dev/shm/")  # noqa: S108 (looked at, never written to)


def sample(pid: int) -> Sample:
    """A process's memory now; raises `OSError` where it is gone."""
    own = resident = 0
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as told:
        for line in told:
            name, *words = line.split()
            if name in OWN:
                own += int(words[0]) * 1024
            elif name == "Rss:":
                resident = int(words[0]) * 1024
    return Sample(time.monotonic(), own, resident)


class Sampler:
    """Looks at every process of a fleet now and then, in a thread of its own."""

    def __init__(self, supervisor: int, every: float = EVERY) -> None:
        self._supervisor = supervisor
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        """Samples of each life of each process, by name and pid."""
        self.seen: dict[int, float] = {}
        """Every process that was ever below the supervisor, with when it began."""
        self.shared: set[str] = set()

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            for name, process in family(self._supervisor).items():
                with contextlib.suppress(OSError, psutil.Error):
                    self.lives[name, process.pid].append(sample(process.pid))
            with contextlib.suppress(psutil.Error):
                for each in psutil.Process(self._supervisor).children(recursive=True):
                    with contextlib.suppress(psutil.Error, OSError):
                        self.seen[each.pid] = each.create_time()
                        self.shared |= holding(each.pid).shared

    def since(self, moment: float) -> dict[tuple[str, int], list[Sample]]:
        """The samples from then on, of the lives that are that old."""
        found = {}
        for life, samples in list(self.lives.items()):
            late = [one for one in list(samples) if one.at >= moment]
            if len(late) >= 3 and samples[0].at <= moment:
                found[life] = late
        return found


def counted(supervisor: int) -> dict[str, Holding]:
    """What each process holds now, by name."""
    found = {}
    for name, process in family(supervisor).items():
        with contextlib.suppress(OSError, psutil.Error):
            found[name] = holding(process.pid)
    return found
