"""The journal's files under a running broker: still those that it opened, and as long as they were.

SQLite goes on writing into a file that was removed, and finds a shortened one only where it reads;
what it says was committed by then would be gone at the next start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bus.errors import Damaged
from bus.journal.books import Books, Tally

__all__ = ["Files", "log_kept"]

_log = logging.getLogger(__name__)


class Files:
    """Looked at before every commit, and after it before it is acknowledged."""

    def __init__(self, path: Path) -> None:
        self._paths = path, path.with_name(path.name + "-wal")
        self._seen: list[tuple[int, int, int] | None] = [None, None]
        self._path = path
        self._tally: Tally | None = None
        self._silent = False

    def look(self) -> None:
        """Raise `Damaged` where they are not what they were: writing on would hide it."""
        for path, seen in zip(self._paths, self._seen, strict=True):
            if seen is not None:
                _same(path, seen)

    def committed(self, books: Books) -> None:
        """Look, then tally what may now be acknowledged; raises `Damaged`: then it may not be."""
        for n, path in enumerate(self._paths):
            self._seen[n] = _same(path, self._seen[n])
        self.tally(books)

    def tally(self, books: Books) -> None:
        """Write what was committed beside the journal; where that fails the journal goes on."""
        try:
            if self._tally is None:
                self._tally = Tally(self._path)
                self._tally.trim()
            self._tally.write(books)
        except OSError as e:
            if not self._silent:
                _log.warning("the journal's tally cannot be written: %s", e)
            self._silent = True
        else:
            self._silent = False

    def emptied(self) -> None:
        """The log was folded into the file, and is short now."""
        self._seen[1] = None

    def close(self) -> None:
        """Close the tally."""
        if self._tally is not None:
            self._tally.close()
            self._tally = None


def _same(path: Path, seen: tuple[int, int, int] | None) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as e:
        raise Damaged(f"{path.name} was removed while the broker runs: {e.strerror}") from e
    if seen is not None and (found.st_dev, found.st_ino) != seen[:2]:
        raise Damaged(f"{path.name} was replaced while the broker runs")
    if seen is not None and found.st_size < seen[2]:
        raise Damaged(f"{path.name} was shortened while the broker runs")
    return found.st_dev, found.st_ino, found.st_size


@contextmanager
def log_kept(path: Path | None) -> Iterator[None]:
    """Where opening a journal within this block fails, its log is there afterwards as it was.

    SQLite folds in what it can read of the log, up to the first broken frame, and removes the rest
    of it when it closes the file; a repair can read on.
    """
    if path is None:
        yield
        return
    log, kept = (path.with_name(path.name + end) for end in ("-wal", "-wal-kept"))
    if kept.exists() and not log.exists():  # killed below, before the log was back
        kept.rename(log)
    with suppress(OSError):  # a file system without links, or without room
        kept.unlink(missing_ok=True)
        if log.exists():
            os.link(log, kept)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if kept.exists() and not log.exists():
                kept.rename(log)
        raise
    finally:
        kept.unlink(missing_ok=True)
