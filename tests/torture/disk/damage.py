"""Ways in which files are damaged, and what they touch."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from bus.journal import Journal
from bus.journal.pages import PAGE, Image
from tests.torture.disk.filling import fill

__all__ = ["DAMAGES", "Places", "damage", "places", "touched"]

Way = Callable[[Path, random.Random], None]


def _cut(share: Callable[[int, random.Random], int]) -> Way:
    def way(file: Path, chance: random.Random) -> None:
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.truncate(min(size, share(size, chance)))

    return way


def _flip(first: Callable[[int], int], last: Callable[[int], int]) -> Way:
    def way(file: Path, chance: random.Random) -> None:
        size = file.stat().st_size
        low, high = first(size), min(size, last(size))
        if high <= low:
            return
        with file.open("r+b") as opened:
            for _ in range(chance.choice((1, 1, 2, 8))):
                place = chance.randrange(low, high)
                opened.seek(place)
                (byte,) = opened.read(1)
                opened.seek(place)
                opened.write(bytes([byte ^ (1 << chance.randrange(8))]))

    return way


def _page(content: Callable[[random.Random], bytes]) -> Way:
    def way(file: Path, chance: random.Random) -> None:
        pages = file.stat().st_size // PAGE
        if pages:
            with file.open("r+b") as opened:
                opened.seek(chance.randrange(pages) * PAGE)
                opened.write(content(chance))

    return way


def _remove(file: Path, chance: random.Random) -> None:
    file.unlink()


def _text(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"something else entirely\n" * chance.randint(1, 1000))


def _other(file: Path, chance: random.Random) -> None:
    state = file.parent / "other"
    fill(state, chance, 40)
    Journal(state / "journal.sqlite").close()
    shutil.copy2(state / "journal.sqlite", file)
    shutil.rmtree(state)


def _swap(file: Path, chance: random.Random) -> None:
    """Two pages change places, as a disk does that loses its way."""
    pages = file.stat().st_size // PAGE
    if pages < 3:
        return
    one, two = chance.sample(range(1, pages), 2)
    raw = bytearray(file.read_bytes())
    first, second = (slice(n * PAGE, (n + 1) * PAGE) for n in (one, two))
    raw[first], raw[second] = raw[second], raw[first]
    file.write_bytes(raw)


_WHOLE: tuple[Callable[[int], int], Callable[[int], int]] = (lambda size: 0, lambda size: size)

DAMAGES: dict[str, tuple[str, Way]] = {
    "file cut to nothing": ("", _cut(lambda size, chance: 0)),
    "file cut in half": ("", _cut(lambda size, chance: size // 2)),
    "file cut in its header": ("", _cut(lambda size, chance: chance.randrange(1, 100))),
    "file cut anywhere": ("", _cut(lambda size, chance: chance.randrange(size or 1))),
    "file cut between pages": ("", _cut(lambda s, chance: chance.randrange(s // PAGE + 1) * PAGE)),
    "bits of its header": ("", _flip(lambda size: 0, lambda size: 100)),
    "bits of its first page": ("", _flip(lambda size: 100, lambda size: PAGE)),
    "bits anywhere": ("", _flip(*_WHOLE)),
    "a page of zeros": ("", _page(lambda chance: bytes(PAGE))),
    "a page of noise": ("", _page(lambda chance: chance.randbytes(PAGE))),
    "two pages swapped": ("", _swap),
    "file removed": ("", _remove),
    "another file in its place": ("", _text),
    "another journal in its place": ("", _other),
    "log cut to nothing": ("-wal", _cut(lambda size, chance: 0)),
    "log cut in half": ("-wal", _cut(lambda size, chance: size // 2)),
    "log cut anywhere": ("-wal", _cut(lambda size, chance: chance.randrange(size or 1))),
    "log removed": ("-wal", _remove),
    "bits of the log's header": ("-wal", _flip(lambda size: 0, lambda size: 32)),
    "bits of the log": ("-wal", _flip(*_WHOLE)),
    "tally removed": ("-tally", _remove),
    "bits of the tally": ("-tally", _flip(*_WHOLE)),
    "tally cut": ("-tally", _cut(lambda size, chance: chance.randrange(size or 1))),
}
"""By the words for it: the end of the file's name, and the way."""

Places = dict[int, set[tuple[str, int]]]
"""Of each event: the pages that it lies on, as an end of a file's name and an offset."""


def damage(state: Path, name: str, chance: random.Random) -> bool:
    """Do it to a journal; False where the file is not there or nothing changed."""
    end, way = DAMAGES[name]
    file = state / f"journal.sqlite{end}"
    if not file.exists() or (file.stat().st_size == 0 and way is not _remove):
        return False
    before = file.read_bytes()
    way(file, chance)
    return not file.exists() or file.read_bytes() != before


class _Traced(Image):
    """Notes which pages a row is read from."""

    def __init__(self, path: Path) -> None:
        self.used: set[int] = set()
        super().__init__(path)

    def page(self, number: int) -> bytes:
        self.used.add(number)
        return super().page(number)


def places(state: Path) -> Places:
    """Where every event of a sound journal lies."""
    image = _Traced(state / "journal.sqlite")
    found: Places = {}
    try:
        for leaf in range(2, image.pages + 1):
            page = image.page(leaf)
            image.used = {leaf}
            for number, row in image._rows_of(page):
                if len(row) == 6 and isinstance(row[4], bytes):
                    found[number] = {
                        ("-wal", image.logged[n]) if n in image.logged else ("", (n - 1) * PAGE)
                        for n in image.used
                    }
                image.used = {leaf}
    finally:
        image.close()
    return found


def touched(state: Path, before: dict[str, bytes], where: set[tuple[str, int]]) -> bool:
    """Whether any of these pages is not what it was, or stands behind a changed header."""
    for end, start in where:
        file = state / f"journal.sqlite{end}"
        now = file.read_bytes() if file.exists() else b""
        first = start - 24 if end else start  # a page in the log has its numbers before it
        if now[first : start + PAGE] != before[end][first : start + PAGE]:
            return True
    return False
