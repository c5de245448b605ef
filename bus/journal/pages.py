"""SQLite's pages, read without SQLite: what lies on sound pages can be had whatever others are.

    file      page 1 │ page 2 │ page 3 │ …          as it was when the log was last folded in
    log       frame: number, sums, page │ frame …   what was committed since, newest last

SQLite stops reading its log at the first broken frame, and finds no row below a broken page. The
formats are those of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LOG_VERSION", "PAGE", "Image"]

PAGE = 4096
"""Bytes of a page; the journal is made with this size."""
LOG_VERSION = 3_007_000
"""What the log's header states: there is no other version of its format."""

_LEAF = 0x0D
_FRAME = 24
_MOST = 1 << 27
"""Bytes that no row has."""
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_BROKEN = (IndexError, ValueError, struct.error, UnicodeDecodeError)


class Image:
    """All pages as the last readable commit left them, whatever of them is damaged."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` where the file is there and cannot be read."""
        self._file = path.open("rb") if path.exists() else None
        self._size = path.stat().st_size // PAGE if self._file is not None else 0
        self._newer: dict[int, bytes] = {}
        self._tail: dict[int, bytes] = {}
        self.logged: dict[int, int] = {}
        """Where in the log the newest copy of a page begins, of those that are there."""
        log = path.with_name(path.name + "-wal")
        if log.exists():
            self._overlay(log.read_bytes())
        self.pages = max([self._size, *self._newer, *self._tail])
        """How many there are."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def page(self, number: int) -> bytes:
        """One page, from 1 on; zeros where it is missing."""
        newer = self._newer.get(number)
        if newer is not None:
            return newer
        if self._file is None or not 0 < number <= self._size:
            return bytes(PAGE)
        self._file.seek((number - 1) * PAGE)
        return self._file.read(PAGE)

    def rows(self) -> Iterator[tuple[int, list[Any]]]:
        """Number and columns of every row of a table with row numbers, in no order.

        Rows of other tables are among them, and, last, some of what never was committed.
        """
        free = self._free()
        for number in range(2, self.pages + 1):
            if number not in free:
                yield from self._rows_of(self.page(number))
        self._newer |= self._tail  # rows run over to pages of the same commit
        for page in self._tail.values():
            yield from self._rows_of(page)

    def _free(self) -> set[int]:
        """Pages that are in no table: old rows may lie there, forgotten or erased long ago."""
        free: set[int] = set()
        (trunk,) = struct.unpack_from(">I", self.page(1), 32)
        while 1 < trunk <= self.pages and trunk not in free:
            page = self.page(trunk)
            following, count = struct.unpack_from(">II", page)
            if count > PAGE // 4 - 2:
                break
            free |= {trunk, *struct.unpack_from(f">{count}I", page, 8)}
            trunk = following
        return free

    def _rows_of(self, page: bytes) -> Iterator[tuple[int, list[Any]]]:
        if page[0] != _LEAF:
            return
        (count,) = struct.unpack_from(">H", page, 3)
        for place in range(8, min(8 + 2 * count, PAGE - 1), 2):
            try:
                (start,) = struct.unpack_from(">H", page, place)
                length, at = _varint(page, start)
                number, at = _varint(page, at)
                if length <= _MOST:
                    yield number, _columns(self._payload(page, at, length))
            except _BROKEN:
                continue

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """A row's bytes, from its page and those that it runs over to."""
        if length <= PAGE - 35:
            return page[at : at + length]
        least = (PAGE - 12) * 32 // 255 - 23
        local = least + (length - least) % (PAGE - 4)
        local = local if local <= PAGE - 35 else least
        parts, left = [page[at : at + local]], length - local
        (following,) = struct.unpack_from(">I", page, at + local)
        while left > 0:
            if not 1 < following <= self.pages:
                raise ValueError("the row ends too soon")
            further = self.page(following)
            parts.append(further[4 : 4 + left])
            left -= PAGE - 4
            (following,) = struct.unpack_from(">I", further)
        return b"".join(parts)

    # the log

    def _overlay(self, log: bytes) -> None:
        """Take the newest sound copy of each page from the log.

        A frame's sum goes on from the one before it, and both are written down: so those behind a
        broken frame can be told sound again.
        """
        if len(log) < 32 + _FRAME + PAGE:
            return
        magic, version, _, _, *salts, first, second = struct.unpack_from(">8I", log)
        order = ">" if magic == 0x377F0683 else "<"
        # Two changes may leave the sum as it was; then SQLite opens nothing.
        if version == LOG_VERSION and (first, second) == _sums(log[:24], (0, 0), order):
            gathered = self._frames(log, salts, (first, second), order)
        else:  # its first page cannot be told sound; rows say themselves whether they are
            salts = list(struct.unpack_from(">2I", log, 32 + 8))
            for order in "<>":
                gathered = self._frames(log, salts, None, order)
                if self.logged:
                    break
        self._newer = {number: log[at : at + PAGE] for number, at in self.logged.items()}
        self._tail = {number: log[at : at + PAGE] for number, at in gathered.items()}

    def _frames(
        self, log: bytes, salts: list[int], sums: tuple[int, int] | None, order: str
    ) -> dict[int, int]:
        """Note where the pages of all commits are; return those of a commit without an end."""
        gathered: dict[int, int] = {}
        for start in range(32, len(log) - _FRAME - PAGE + 1, _FRAME + PAGE):
            number, size, *rest = struct.unpack_from(">6I", log, start)
            page = log[start + _FRAME : start + _FRAME + PAGE]
            told = rest[2], rest[3]
            if rest[:2] != salts or number == 0:
                continue
            if (
                sums is None
                or _sums(page, _sums(log[start : start + 8], sums, order), order) == told
            ):
                gathered[number] = start + _FRAME
                if size and sums is not None:  # the last of a commit
                    self.logged |= gathered
                    gathered = {}
            sums = told
        return gathered


def _sums(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return one, two


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for n in range(8):
        byte = data[at + n]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + n + 1
    return value << 8 | data[at + 8], at + 9


def _columns(record: bytes) -> list[Any]:
    end, at = _varint(record, 0)
    kinds: list[int] = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
    return list(_values(record, end, kinds))


def _values(record: bytes, at: int, kinds: Sequence[int]) -> Iterator[Any]:
    for kind in kinds:
        width = _INTEGERS.get(kind, 8 if kind == 7 else max(0, (kind - 12) // 2))
        part = record[at : at + width]
        if len(part) != width:
            raise ValueError("the row is cut off")
        at += width
        if kind == 0:
            yield None
        elif kind in _INTEGERS:
            yield int.from_bytes(part, signed=True)
        elif kind == 7:
            yield struct.unpack(">d", part)[0]
        elif kind in (8, 9):
            yield kind - 8
        else:
            yield part if kind % 2 == 0 else part.decode()
