"""One card on its way into a file: hashed as it comes, never parsed, resumed where it was cut.

Two threads: one reads from the peer, the other hashes and writes, so that neither waits for long.
What a peer sends is believed only when all of it has the digest that was asked for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas import SkillCard
from services.federation.connection import Connection, Stream
from services.federation.errors import (
    Altered,
    FederationError,
    PeerMisbehaved,
    PeerUnreachable,
)
from services.federation.limits import Bucket
from services.federation.protocol import FRAME, MIN_FRAME

__all__ = ["Download", "Pace"]

FLUSH: Final = 4 << 20
"""Bytes after which the disk is told to begin."""

AHEAD: Final = 3
"""Frames that are read before they are written."""


@dataclass(frozen=True)
class Pace:
    """How long a transfer may take."""

    seconds: float = 120.0
    """In all, for one attempt."""
    least_rate: int = 16 << 10
    """Bytes a second; slower than this for `stall` is given up."""
    stall: float = 10.0
    """Seconds."""

    def longest(self, amount: int) -> float:
        """Seconds that `amount` bytes may take: a peer that is silent is not waited for longer."""
        if not self.least_rate:
            return self.seconds
        return min(self.seconds, 2 * self.stall + amount / self.least_rate)


class Download:
    """A file that grows by attempts, from one peer or another, until it is whole."""

    def __init__(self, card: SkillCard, path: Path, *, pace: Pace, ingress: Bucket) -> None:
        """`card` says the digest and the size that is written at most; `path` must not exist."""
        self.card = card
        self.path = path
        self.received = 0
        """Bytes that are in the file."""
        self._flushed = 0
        self._pace = pace
        self._ingress = ingress
        self._hash = hashlib.sha256()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A disk without room refuses here, and room that is there is filled in half the time.
            os.posix_fallocate(self._file, 0, card.bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                self.abandon()
                raise

    def restart(self) -> None:
        """Forget what came: it was not what it should have been."""
        os.lseek(self._file, 0, os.SEEK_SET)
        self.received = self._flushed = 0
        self._hash = hashlib.sha256()

    def abandon(self) -> None:
        """Close and remove the file; after `finish` it does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self.path.unlink(missing_ok=True)

    def attempt(self, connection: Connection) -> None:
        """Go on from where the last attempt ended, until the file is whole.

        Raises `Altered` when it is whole and wrong, a `PeerError` when it was cut; what came by
        then is kept.
        """
        if self.received < self.card.bytes:
            seconds = self._pace.longest(self.card.bytes - self.received)
            reading = _Reading(connection, self.card.digest, self.received, seconds)
            try:
                self._drain(reading)
            finally:
                reading.cancel()
        found = "sha256:" + self._hash.hexdigest()
        if found != self.card.digest:
            raise Altered(f"its bytes are not those of its digest: they make {found[:19]}…")

    def finish(self, target: Path) -> None:
        """Flush the file to the disk and give it its name, at once or not at all."""
        os.fsync(self._file)
        os.close(self._file)
        self._file = -1
        self.path.replace(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _drain(self, reading: _Reading) -> None:
        since, before = time.monotonic(), self.received
        ends = since + self._pace.seconds
        while True:
            frame = reading.next(self._pace.stall / 10)
            if frame is None and reading.ended:
                break
            if frame is not None:
                since += self._write(frame)  # a pause of our own is not the peer's slowness
            now = time.monotonic()
            if now > ends:
                raise PeerUnreachable(f"it was not done within {self._pace.seconds:g} s")
            if now - since >= self._pace.stall:
                came, due = self.received - before, self._pace.least_rate * (now - since)
                if came + FRAME < due:  # over a slow line a whole frame may be on its way
                    raise PeerMisbehaved(f"it sent {came} bytes in {now - since:.0f} s: too slow")
                if came >= due:
                    since, before = now, self.received
        if self.received < self.card.bytes:
            raise PeerUnreachable(
                f"the transfer was cut after {self.received} of {self.card.bytes} bytes"
            )

    def _write(self, frame: Any) -> float:
        """Hash and write; how long it paused for the sake of `ingress`, in seconds."""
        left = self.card.bytes - self.received
        if frame.size > left:
            raise PeerMisbehaved(f"it sends more than the {self.card.bytes} bytes it promised")
        if frame.size < min(MIN_FRAME, left):
            raise PeerMisbehaved(f"it sends frames of {frame.size} bytes")
        pause = self._ingress.take(frame.size)
        if pause:
            time.sleep(pause)
        self._hash.update(frame)
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.received += frame.size
        self._flush()
        return pause

    def _flush(self) -> None:
        """Have the disk begin: then the flush at the end has next to nothing left to wait for."""
        ready = self.received - self._flushed
        if ready >= FLUSH and hasattr(os, "posix_fadvise"):
            # Linux starts to write these pages and keeps them, for they are not clean yet.
            os.posix_fadvise(self._file, self._flushed, ready, os.POSIX_FADV_DONTNEED)
            self._flushed = self.received


class _Reading:
    """The thread that reads; a peer that says nothing at all holds it, and nobody else."""

    def __init__(self, connection: Connection, digest: str, offset: int, seconds: float) -> None:
        self._ask = (connection, digest, offset, seconds)
        self._frames: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stream: Stream | None = None
        self._stop = threading.Event()
        self.ended = False
        threading.Thread(target=self._read, name="fetch", daemon=True).start()

    def next(self, seconds: float) -> Any:
        """The next frame; None where none came in time, or, with `ended`, no more will."""
        try:
            frame = self._frames.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(frame, FederationError):
            raise frame
        self.ended = frame is None
        return frame

    def cancel(self) -> None:
        """Let the thread end, now or when gRPC lets go of it."""
        self._stop.set()
        if self._stream is not None:
            self._stream.cancel()

    def _read(self) -> None:
        connection, digest, offset, seconds = self._ask
        end: FederationError | None = None
        try:
            self._stream = connection.open(digest, offset, seconds)
            for frame in self._stream:
                if not self._put(frame):
                    self._stream.cancel()
                    return
        except FederationError as error:
            end = error
        self._put(end)

    def _put(self, item: Any) -> bool:
        """Whether it was taken before the reading was cancelled."""
        while not self._stop.is_set():
            try:
                self._frames.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
