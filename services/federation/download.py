"""One card on its way into a file: hashed as it comes, never parsed, resumed where it was cut.

One thread reads, hashes and writes, and another watches its pace: frames that go from hand to hand
cost more than they gain. What a peer sends is believed only when all of it has the digest that was
asked for.
"""

from __future__ import annotations

import hashlib
import os
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

__all__ = ["Download", "Pace", "Pacer"]

FLUSH: Final = 4 << 20
"""Bytes after which the disk is told to begin."""


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


class Pacer:
    """Judges a transfer now and then; whole frames come over a slow line, with silence between."""

    def __init__(self, pace: Pace, now: float, received: int) -> None:
        self._pace = pace
        self._ends = now + pace.seconds
        self._since, self._before, self._paused = now, received, 0.0

    def check(self, now: float, received: int, paused: float = 0.0) -> None:
        """`paused` are the seconds that this node itself made it wait, since the beginning.

        Raises `PeerUnreachable` where it takes too long in all, `PeerMisbehaved` where it is slow.
        """
        if now > self._ends:
            raise PeerUnreachable(f"it was not done within {self._pace.seconds:g} s")
        taken = now - self._since - (paused - self._paused)
        if taken < self._pace.stall:
            return
        came, due = received - self._before, self._pace.least_rate * taken
        if came + FRAME < due:  # a frame may be on its way
            raise PeerMisbehaved(f"it sent {came} bytes in {taken:.0f} s: too slow")
        if came >= due:
            self._since, self._before, self._paused = now, received, paused


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
            pouring = _Pouring(self, connection, seconds)
            try:
                self._watch(pouring)
            finally:
                pouring.stop()
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

    def take(self, frame: Any) -> None:
        """Hash and write the next frame. Raises `PeerMisbehaved` or, of the disk, OSError."""
        left = self.card.bytes - self.received
        if frame.size > left:
            raise PeerMisbehaved(f"it sends more than the {self.card.bytes} bytes it promised")
        if frame.size < min(MIN_FRAME, left):
            raise PeerMisbehaved(f"it sends frames of {frame.size} bytes")
        self._hash.update(frame)
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.received += frame.size
        self._flush()

    def pause(self, amount: int) -> float:
        """Wait until `amount` bytes more may be drawn from all peers; how long that was."""
        pause = self._ingress.take(amount)
        if pause:
            time.sleep(pause)
        return pause

    def _watch(self, pouring: _Pouring) -> None:
        """Wait for the end; raises what ended it, or that it was too slow."""
        pacer = Pacer(self._pace, time.monotonic(), self.received)
        while not pouring.ended.wait(self._pace.stall / 10):
            pacer.check(time.monotonic(), self.received, pouring.paused)
        if pouring.error is not None:
            raise pouring.error
        if self.received < self.card.bytes:
            raise PeerUnreachable(
                f"the transfer was cut after {self.received} of {self.card.bytes} bytes"
            )

    def _flush(self) -> None:
        """Have the disk begin: then the flush at the end has next to nothing left to wait for."""
        ready = self.received - self._flushed
        if ready >= FLUSH and hasattr(os, "posix_fadvise"):
            # Linux starts to write these pages and keeps them, for they are not clean yet.
            os.posix_fadvise(self._file, self._flushed, ready, os.POSIX_FADV_DONTNEED)
            self._flushed = self.received


class _Pouring:
    """The thread that moves the bytes; a peer that says nothing at all holds it and nobody else."""

    def __init__(self, download: Download, connection: Connection, seconds: float) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.paused = 0.0
        """Seconds that it waited for the sake of all peers' common rate."""
        self._download = download
        self._ask = (connection, download.card.digest, download.received, seconds)
        self._stream: Stream | None = None
        self._stopped = False
        self._writing = threading.Lock()
        threading.Thread(target=self._run, name="fetch", daemon=True).start()

    def stop(self) -> None:
        """On return nothing more is written; the thread ends now, or when gRPC lets go of it."""
        with self._writing:
            self._stopped = True
        if self._stream is not None:
            self._stream.cancel()

    def _run(self) -> None:
        try:
            self._pour()
        except (FederationError, OSError) as error:
            self.error = error
        finally:
            self.ended.set()

    def _pour(self) -> None:
        connection, digest, offset, seconds = self._ask
        self._stream = stream = connection.open(digest, offset, seconds)
        for frame in stream:
            self.paused += self._download.pause(frame.size)
            with self._writing:
                if self._stopped:
                    break
                self._download.take(frame)
        if self._stopped:
            stream.cancel()
