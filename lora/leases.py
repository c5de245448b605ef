"""Which cards are open, in any process of this machine: what is open is not evicted.

Each digest has a byte of one file, and a process that has the card open holds a shared lock on it.
Locks go with the process that held them, however it ends; they take no descriptor but the file's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["Leases"]

_DIGITS: Final = 15
"""Hexadecimal digits of a digest that say which byte is its own: 60 bits, an offset has 63."""


class Leases:
    """Of one folder; used from any thread.

    A process must have one of them for a file: closing any descriptor of it ends all its locks.
    """

    _known: Final[dict[Path, Leases]] = {}
    _knowing: Final = threading.Lock()

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._held: Counter[int] = Counter()
        self._gone: deque[int] = deque()

    @classmethod
    def of(cls, file: Path) -> Leases:
        """The process's own of this file."""
        file = file.absolute()
        with cls._knowing:
            if file not in cls._known:
                cls._known[file] = cls(file)
            return cls._known[file]

    def take(self, digest: str) -> None:
        """Say that the card is open; waits while somebody is just evicting it."""
        place = _place(digest)
        with self._lock:
            if not self._held[place]:
                fcntl.lockf(self._file, fcntl.LOCK_SH, 1, place)
            self._held[place] += 1
        self._settle()

    def drop(self, digest: str) -> None:
        """Take back one `take`."""
        # Called from finalizers, too, which may interrupt whoever holds the lock in this thread.
        self._gone.append(_place(digest))
        self._settle()

    def until_gone(self, holder: object, digest: str) -> None:
        """Drop once `holder` is garbage."""
        weakref.finalize(holder, self.drop, digest).atexit = False

    @contextlib.contextmanager
    def alone(self, digest: str) -> Iterator[bool]:
        """Whether nobody has the card open; while the block runs nobody can."""
        place = _place(digest)
        self._settle()
        with self._lock:
            mine = not self._held[place]
            if mine:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                except OSError:
                    mine = False
            try:
                yield mine
            finally:
                if mine:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        self._settle()

    def _settle(self) -> None:
        """Give up what was dropped; whoever holds the lock does it afterwards."""
        while self._gone and self._lock.acquire(blocking=False):
            try:
                with contextlib.suppress(IndexError):
                    while True:
                        place = self._gone.popleft()
                        self._held[place] -= 1
                        if not self._held[place]:
                            del self._held[place]
                            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
            finally:
                self._lock.release()


def _place(digest: str) -> int:
    return int(digest.removeprefix("sha256:")[:_DIGITS], 16)
