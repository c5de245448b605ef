"""Files that this process has read whole and found sound: they need not be hashed at each
opening, nor what they say be read and checked again.

A file is known by its place on the disk, its size and its times. Whoever writes to it changes the
time of change (`st_ctime`), which cannot be set back; one that has changed within `SETTLED_S` of
being read is not remembered, since a second change in the same tick of the clock would not show.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["SETTLED_S", "Identity", "Verified", "identity"]

SETTLED_S: Final = 2.0
"""Seconds; the coarsest clock among file systems in use ticks once in so many."""

T = TypeVar("T")


class Identity(NamedTuple):
    """One state of one file."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def settled(self, now_ns: int) -> bool:
        """Whether its last change lies far enough back to tell the next one from it."""
        return max(self.modified_ns, self.changed_ns) + SETTLED_S * 1e9 < now_ns


def identity(path: Path) -> Identity:
    """Raises `OSError`."""
    found = os.stat(path)
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Verified(Generic[T]):
    """What was found of files, by their state: of the `most` last used ones; from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[Identity, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, seen: Identity) -> T | None:
        """What was found of the file in this state."""
        with self._lock:
            found = self._found.get(seen)
            if found is not None:
                self._found.move_to_end(seen)
            return found

    def learn(self, seen: Identity, found: T) -> None:
        """Remember what a file holds that was read whole in this state, unless it changed just
        now."""
        if not seen.settled(time.time_ns()):
            return
        with self._lock:
            self._found[seen] = found
            while len(self._found) > self._most:
                self._found.popitem(last=False)
