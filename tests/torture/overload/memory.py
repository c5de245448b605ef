"""How much memory each process of a fleet takes, looked at again and again."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

import psutil

__all__ = ["Memory"]

EVERY: Final = 0.25
"""Seconds between two looks."""


class Memory:
    """`with Memory(pid) as memory:`; by `service 1`, of all children of a supervisor."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._names: dict[psutil.Process, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="memory")
        self.now: dict[str, int] = {}
        """Bytes at the last look."""
        self.peak: dict[str, int] = {}
        """The most bytes since `mark`."""
        self.idle: dict[str, int] = {}
        """Bytes when `mark` was called."""
        self.pids: dict[str, set[int]] = {}
        """Every process that a name had: more than one, and it was started anew."""

    def __enter__(self) -> Memory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def mark(self) -> None:
        """From now on is compared with now."""
        self._look()
        self.idle, self.peak = dict(self.now), dict(self.now)

    def grown(self) -> dict[str, int]:
        """By how many bytes each was beyond its idle size at the most."""
        return {name: peak - self.idle.get(name, 0) for name, peak in sorted(self.peak.items())}

    def _work(self) -> None:
        while not self._over.wait(EVERY):
            self._look()

    def _look(self) -> None:
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                name = self._names.get(process) or self._named(process)
                size = process.memory_info().rss
                self.now[name] = size
                self.peak[name] = max(size, self.peak.get(name, 0))
                self.pids.setdefault(name, set()).add(process.pid)

    def _named(self, process: psutil.Process) -> str:
        words = process.cmdline()
        name = "supervisor" if process == self._root else "child"
        modules = [word for word in words if word == "bus" or word.startswith("services.")]
        if modules:
            name = modules[0].removeprefix("services.")
        name = "broker" if name == "bus" else name
        if "--instance" in words:
            name += " " + words[words.index("--instance") + 1]
        self._names[process] = name
        return name
