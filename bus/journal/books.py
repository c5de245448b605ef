"""The journal's books: what its rows must add up to, kept in the same transactions.

SQLite notices a torn tree, but not a changed byte within a row, nor that the end of its log was cut
off. So every event carries a sum over its bytes, one row counts events and commits, and a tally
beside the file says how many of those were acknowledged: a file that has fewer lost some.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

__all__ = ["Books", "Tallied", "Tally", "crc_of", "key_of", "read_tally", "tally_path", "tied"]

_MARK = b"CJTALLY1"
_TALLY = struct.Struct("<8s16sqqI")
_NUMBERS = struct.Struct("<qd")


def crc_of(name: bytes, sequence: int, kind: str, at: float, raw: bytes) -> int:
    """CRC-32 over all that an event's row says, and the name of its journal."""
    head = zlib.crc32(kind.encode(), zlib.crc32(_NUMBERS.pack(sequence, at), zlib.crc32(name)))
    return zlib.crc32(raw, head)


def key_of(source: str, name: str) -> bytes:
    """What duplicates are known by: 128 bits over source and id."""
    return blake2b(f"{len(source)}:{source}{name}".encode(), digest_size=16).digest()


def tied(*row: object) -> int:
    """63 bits that stand for a row of a small table; a table's rows are tied together by XOR."""
    return int.from_bytes(blake2b(repr(row).encode(), digest_size=8).digest()) >> 1


class Books:
    """The one row of the table `books`, in memory; every change stands in the journal's own."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.name = b""
        """Of this journal, 16 bytes that no other one has."""
        self.commits = 0
        """Transactions that changed something."""
        self.last = 0
        """The last sequence that was ever given."""
        self.events = 0
        """Events kept."""
        self.dead = 0
        """Dead letters kept."""
        self.tied = 0
        """Every row of `types` and `cursors`, tied together."""
        self.unsummed = 0
        """Events up to this sequence may have no sum: they come from an older version."""

    def load(self) -> None:
        """Read the row."""
        row = self._db.execute(
            "SELECT name, commits, last, events, dead, tied, unsummed FROM books"
        ).fetchone()
        self.name, self.commits, self.last, self.events, self.dead, self.tied, self.unsummed = row

    def retie(self, old: tuple[object, ...] | None, new: tuple[object, ...] | None) -> None:
        """A row of a small table was put in another's place, added or removed."""
        for row in (old, new):
            if row is not None:
                self.tied ^= tied(*row)

    def write(self) -> None:
        """Count one more commit, and write the row."""
        self.commits += 1
        self._db.execute(
            "UPDATE books SET commits = ?, last = ?, events = ?, dead = ?, tied = ?",
            (self.commits, self.last, self.events, self.dead, self.tied),
        )


class Tallied(NamedTuple):
    """What was acknowledged, at least."""

    name: bytes
    commits: int
    last: int
    """The last sequence."""


def tally_path(path: Path) -> Path:
    """The tally of a journal."""
    return path.with_name(path.name + "-tally")


def read_tally(path: Path) -> Tallied | None:
    """The tally of a journal, None where there is none; raises `ValueError` where it is broken."""
    try:
        raw = tally_path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise ValueError(e.strerror) from e
    if len(raw) != _TALLY.size or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise ValueError("it is not whole")
    mark, name, commits, last, _ = _TALLY.unpack(raw)
    if mark != _MARK:
        raise ValueError("it is of another version")
    return Tallied(name, commits, last)


class Tally:
    """Written in place after every commit, before that is acknowledged.

    It is not waited for until it is on the disk: after a power cut it may be older than the
    journal, never newer, and what is older only asks for less.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self._file = os.open(tally_path(path), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def write(self, books: Books) -> None:
        """Raises `OSError`: the commit is on the disk all the same."""
        raw = _TALLY.pack(_MARK, books.name, books.commits, books.last, 0)[:-4]
        os.pwrite(self._file, raw + zlib.crc32(raw).to_bytes(4, "little"), 0)

    def trim(self) -> None:
        """Cut off what a longer file had."""
        os.ftruncate(self._file, _TALLY.size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
