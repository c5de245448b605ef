"""Cards in an object store, and a folder of this machine from which they are mapped.

The folder is a cache: a card comes into it when it is first opened, and the least used leave it
when it takes more than its budget. None leaves that is open in any process, and none that the
object store was never seen to have.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

import pyarrow as pa

from lora import layout
from lora.card import DEFAULT_MAX_BYTES, EXTENSION, LoRACard, LoRAFormat
from lora.errors import (
    CardCorruptError,
    CardDigestError,
    CardNotFoundError,
    CardTooLargeError,
    ObjectDamagedError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from lora.leases import Leases
from lora.objects import Objects
from lora.store import CardStore

__all__ = ["FOLDER", "RemoteCardStore"]

FOLDER: Final = "cards"
"""Below the object store's place."""

LEFT: Final = 3600.0
"""Seconds after which a half fetched file is nobody's: a kill left it."""


class _Cached(NamedTuple):
    used: float
    size: int
    digest: str


class RemoteCardStore(CardStore):
    """A `CardStore` that several machines share; each has a folder of its own.

    Whatever reaches the store waits for it, up to the deadline of `objects`: not for event loops.
    Beside what `CardStore` raises, every method but `path` raises `StoreAwayError` and
    `StoreRefusedError`.
    """

    fetches: ClassVar[bool] = True

    def __init__(
        self,
        folder: str | Path,
        objects: Objects,
        *,
        cache_bytes: int,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        """`cache_bytes` is what the folder takes, beside what is open and what has just come."""
        super().__init__(folder, max_bytes=max_bytes)
        self.objects = objects
        self.cache_bytes = cache_bytes
        # A file each, touched when its card is opened; only what the object store has has one.
        self._used = self.folder / ".used"
        self._used.mkdir(exist_ok=True)
        self._leases = Leases.of(self.folder / ".open")

    def put(self, card: LoRACard) -> LoRACard:
        """Write the card to the object store and to the folder."""
        data = LoRAFormat.encode(card)
        digest = layout.digest_of_bytes(data)
        self.objects.put(digest, data)
        with self._held(digest):
            if not self.path(digest).exists():
                layout.write_atomically(self.path(digest), data)
            self._touch(digest)
        self._make_room()
        return self.open(digest)

    def adopt(self, file: str | Path, digest: str) -> LoRACard:
        """Move a finished file into the folder and write it to the object store, once verified."""
        LoRAFormat.read(file, digest=digest, max_bytes=self.max_bytes)
        self.objects.put(digest, _mapped(Path(file)))
        with self._held(digest):
            super().adopt(file, digest)
            self._touch(digest)
        self._make_room()
        return self.open(digest)

    def open(self, digest: str) -> LoRACard:
        """The card of this digest, verified and mapped; fetched where it is not here.

        It stays in the folder as long as the card that is returned lives.
        """
        self._leases.take(digest)
        try:
            card = self._opened(digest)
        except BaseException:
            self._leases.drop(digest)
            raise
        self._leases.until_gone(card, digest)
        return card

    def bring(self, digest: str) -> Path:
        """The card's file on this machine, fetched if need be.

        Somebody may evict it at any time: who needs it for longer keeps what `open` returns.
        """
        with self._held(digest):
            if not self.path(digest).exists():
                self._fetch(digest)
            self._touch_shared(digest)
        return self.path(digest)

    def share(self, digest: str) -> None:
        """Write a card that lies in the folder to the object store, where it is not there."""
        with self._held(digest):
            self.objects.offer(digest, _mapped(super().bring(digest)))
            self._touch(digest)

    def digests(self) -> list[str]:
        """The digests of all cards in the object store, sorted."""
        return self.objects.digests()

    def local(self) -> list[str]:
        """The digests of the cards in the folder, sorted."""
        return super().digests()

    def delete(self, digest: str) -> bool:
        """Remove the card from the object store and from the folder; whether it was there."""
        there = self.objects.delete(digest)
        self._marker(digest).unlink(missing_ok=True)
        return super().delete(digest) or there

    # The folder -------------------------------------------------------------------------------

    def _opened(self, digest: str) -> LoRACard:
        if not self.path(digest).exists():
            self._fetch(digest)
        try:
            card = super().open(digest)
        except (CardDigestError, CardCorruptError, CardNotFoundError):
            # The copy here is not what came, or went just now: the object store has another.
            if not self._marker(digest).exists():
                raise
            super().delete(digest)
            self._fetch(digest)
            card = super().open(digest)
        self._touch_shared(digest)
        return card

    def _fetch(self, digest: str) -> None:
        """Into the folder by another name and a rename: two that fetch at once do no harm."""
        beside = self.folder / f".{digest[7:]}.{secrets.token_hex(6)}.fetch"
        try:
            self.objects.fetch(digest, beside, self.max_bytes)
            super().adopt(beside, digest)
        except ObjectNotFoundError as error:
            raise CardNotFoundError(f"the store has no card {digest}: {error}") from error
        except ObjectTooLargeError as error:
            raise CardTooLargeError(str(error)) from error
        except ObjectDamagedError as error:
            raise CardDigestError(str(error)) from error
        finally:
            beside.unlink(missing_ok=True)
        self._touch(digest)
        self._make_room()

    def _make_room(self) -> None:
        """Evict the least used until the folder keeps its budget, but for what is open."""
        cached = sorted(self._cached())
        held = sum(one.size for one in cached)
        for one in cached:
            if held <= self.cache_bytes:
                return
            with self._leases.alone(one.digest) as alone:
                if alone:
                    super().delete(one.digest)
                    self._marker(one.digest).unlink(missing_ok=True)
                    held -= one.size

    def _cached(self) -> Iterator[_Cached]:
        for marker in self._used.iterdir():
            digest = f"sha256:{marker.name}"
            with contextlib.suppress(FileNotFoundError):  # another process evicts it
                used, size = marker.stat().st_mtime, self.path(digest).stat().st_size
                yield _Cached(used, size, digest)
        for file in self.folder.glob(".*.fetch"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > LEFT:
                    file.unlink()

    def _marker(self, digest: str) -> Path:
        return self._used / self.path(digest).name.removesuffix(EXTENSION)

    def _touch(self, digest: str) -> None:
        """The object store has it, and it was used just now."""
        self._marker(digest).touch()

    def _touch_shared(self, digest: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # here before there was an object store
            os.utime(self._marker(digest))

    @contextlib.contextmanager
    def _held(self, digest: str) -> Iterator[None]:
        self._leases.take(digest)
        try:
            yield
        finally:
            self._leases.drop(digest)


def _mapped(path: Path) -> pa.Buffer:
    with pa.memory_map(str(path), "r") as source:
        return source.read_buffer()
