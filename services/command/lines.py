"""Lines of a file or of standard input, in chunks, without ever holding all of them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from services.command.errors import InputRefused

__all__ = ["CHUNK", "Chunk", "Raw", "chunks_of", "lines_of", "opened"]

CHUNK: Final = 64
"""Lines of a chunk at most: what travels as one request."""

CHUNK_BYTES: Final = 256 << 10

GATHERING: Final = 0.05
"""Seconds that a chunk waits for one more line."""

_BLOCK: Final = 64 << 10
_BOM: Final = b"\xef\xbb\xbf"
_AROUND: Final = len(_BOM) + 1  # what a line may lose: that, and a carriage return


class Chunk(NamedTuple):
    """Some lines on end."""

    texts: tuple[str, ...]
    first: int
    """The number of the first, from 1."""
    bytes: int
    """Read for them."""
    paused: bool
    """Nothing more came for a moment."""

    @property
    def place(self) -> str:
        """For messages: `line 7`, `lines 1 to 64`."""
        last = self.first + len(self.texts) - 1
        return f"line {last}" if last == self.first else f"lines {self.first} to {last}"


class Raw:
    """Bytes of a file descriptor, waited for without a thread: Ctrl-C is heard at once."""

    def __init__(self, handle: int, name: str) -> None:
        self.name = name
        self._handle = handle
        found = os.fstat(handle)
        self.size = found.st_size if stat.S_ISREG(found.st_mode) else None
        """Bytes of a regular file; None where nobody knows."""
        self._waits = not stat.S_ISREG(found.st_mode)

    async def read(self) -> bytes:
        """Some bytes; none at the end. Raises `OSError`."""
        if self._waits:
            await self._readable()
        return os.read(self._handle, _BLOCK)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            # The descriptor stays as it is: a terminal's is that of standard output, too.
            loop.add_reader(self._handle, _once, ready)
        except PermissionError:  # of a kind that never waits, such as /dev/null
            self._waits = False
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._handle)


def _once(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


@contextmanager
def opened(file: Path | None) -> Iterator[Raw]:
    """A file, or standard input where there is none; raises `InputRefused`."""
    if file is None:
        yield Raw(0, "standard input")
        return
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputRefused(f"{file} cannot be read: {error.strerror}") from error
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise InputRefused(f"{file} cannot be read: it is a folder")
        yield Raw(handle, str(file))
    finally:
        os.close(handle)


async def lines_of(raw: Raw, longest: int) -> AsyncGenerator[tuple[bytes, bool]]:
    """Every line without its end, and whether nothing more came for a moment after it.

    A last line without an end is one too. Raises `InputRefused` where one is longer than
    `longest` bytes: it has its number.
    """
    rest, number = b"", 0
    held: bytes | None = None
    while True:
        try:
            async with asyncio.timeout(None if held is None else GATHERING):
                block = await raw.read()
        except TimeoutError:
            if held is not None:
                yield held, True
            held = None
            continue
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if held is not None:
                yield held, False
            held = _stripped(line, number, raw, longest)
        if len(rest) > longest + _AROUND:  # it has no end yet, and need not come to one
            _stripped(rest, number + 1, raw, longest)
    if held is not None:
        yield held, False
    if rest:
        yield _stripped(rest, number + 1, raw, longest), False


def _stripped(line: bytes, number: int, raw: Raw, longest: int) -> bytes:
    line = line.removesuffix(b"\r")
    if number == 1:
        line = line.removeprefix(_BOM)
    if len(line) > longest:
        raise InputRefused(f"line {number} of {raw.name} has more than {longest:,} bytes")
    return line


async def chunks_of(raw: Raw, longest: int) -> AsyncGenerator[Chunk]:
    """The lines as texts, `CHUNK` at a time, fewer where they are long or come slowly.

    Raises `InputRefused` for a line that is too long or not UTF-8.
    """
    texts: list[str] = []
    first, size = 1, 0
    async for line, paused in lines_of(raw, longest):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError as error:
            raise InputRefused(f"line {first + len(texts)} of {raw.name} is not UTF-8") from error
        size += len(line) + 1
        if paused or len(texts) >= CHUNK or size >= CHUNK_BYTES:
            yield Chunk(tuple(texts), first, size, paused)
            first, texts, size = first + len(texts), [], 0
    if texts:
        yield Chunk(tuple(texts), first, size, False)
