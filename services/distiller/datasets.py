"""The datasets that were made: of each domain the last few stay, so the folder is bounded.

Where there is an object store they are in it, too, for factories on other machines. What is to be
deleted there is noted down first: a store that is away, or a kill, leaves none behind for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from pathlib import Path

from lora.objects import Objects
from services.runtime.store import transaction

__all__ = ["KEPT", "SCHEMA", "DatasetFolder"]

KEPT = 4
"""Datasets of each domain that stay. Of waiting tasks only the newest lives on, and a training
reads its dataset when it begins."""

GRACE = 900.0
"""Seconds that any dataset stays: a training that is about to begin may be about to read it."""

_OURS = re.compile(r"(\.writing-.*|[0-9a-f]{64})\.parquet")

SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, digest TEXT NOT NULL UNIQUE, made REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS dataset_debris (digest TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class DatasetFolder:
    """Knows which dataset is of which domain, and deletes the oldest."""

    def __init__(
        self, store: sqlite3.Connection, folder: Path, shared: Objects | None = None
    ) -> None:
        self._store = store
        self._folder = folder
        self._shared = shared
        self._coming: set[str] = set()
        """Datasets on their way to the object store."""

    async def share(self, digest: str) -> None:
        """Have factories on other machines find a dataset of the folder; `keep` or `abandon` it
        afterwards, whatever becomes of this. Raises `StoreError`."""
        if self._shared is None:
            return
        self._coming.add(digest)
        self._note(digest)
        data = await asyncio.to_thread(self._path(digest).read_bytes)
        await asyncio.to_thread(self._shared.put, digest, data)

    async def sweep(self) -> None:
        """Delete in the object store what is known no more. Raises `StoreError`."""
        if self._shared is None:
            return
        for row in self._store.execute("SELECT digest FROM dataset_debris").fetchall():
            if row["digest"] not in self._coming:
                await asyncio.to_thread(self._shared.delete, row["digest"])
                self._store.execute("DELETE FROM dataset_debris WHERE digest = ?", tuple(row))

    async def withdraw(self, domain: str) -> None:
        """Delete a domain's datasets in the object store, and all that is owed there.

        What is left of them is `forget`'s. Raises `StoreError`.
        """
        if self._shared is None:
            return
        with transaction(self._store):
            for row in self._store.execute(
                "SELECT digest FROM datasets WHERE domain = ?", (domain,)
            ).fetchall():
                self._store.execute("INSERT OR IGNORE INTO dataset_debris VALUES (?)", tuple(row))
        await self.sweep()

    def _note(self, digest: str) -> None:
        """To be deleted in the object store, unless it is known."""
        if self._shared is not None:
            self._store.execute(
                "INSERT OR IGNORE INTO dataset_debris SELECT ? WHERE NOT EXISTS"
                " (SELECT 1 FROM datasets WHERE digest = ?)",
                (digest, digest),
            )

    def keep(self, domain: str, digest: str, now: float) -> None:
        """A dataset (`sha256:…`) was written; the domain's oldest beyond `KEPT` go.

        `now` is in seconds since the epoch.
        """
        with transaction(self._store):
            self._store.execute("DELETE FROM datasets WHERE digest = ?", (digest,))
            self._store.execute(
                "INSERT INTO datasets (domain, digest, made) VALUES (?, ?, ?)",
                (domain, digest, now),
            )
            self._store.execute("DELETE FROM dataset_debris WHERE digest = ?", (digest,))
        self._coming.discard(digest)
        old = self._store.execute(
            "SELECT digest FROM datasets WHERE domain = ? AND made < ? AND number NOT IN"
            " (SELECT number FROM datasets WHERE domain = ? ORDER BY number DESC LIMIT ?)",
            (domain, now - GRACE, domain, KEPT),
        ).fetchall()
        for row in old:
            with contextlib.suppress(OSError):  # tried again after the next one
                self._unlink(row["digest"])
                with transaction(self._store):
                    self._store.execute("DELETE FROM datasets WHERE digest = ?", tuple(row))
                    self._note(row["digest"])

    def forget(self, domain: str) -> int:
        """Delete a domain's datasets, each of which holds nothing of any other; how many.

        Call inside a transaction. Raises `OSError` where a file cannot be deleted.
        """
        rows = self._store.execute(
            "SELECT digest FROM datasets WHERE domain = ?", (domain,)
        ).fetchall()
        for row in rows:
            self._unlink(row["digest"])
        self._store.execute("DELETE FROM datasets WHERE domain = ?", (domain,))
        return len(rows)

    def abandon(self, digest: str) -> None:
        """A dataset was written and is not wanted; one that is known stays."""
        known = "SELECT 1 FROM datasets WHERE digest = ?"
        self._coming.discard(digest)
        if self._store.execute(known, (digest,)).fetchone() is None:
            self._unlink(digest)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.parquet"

    def _unlink(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete what a kill left half written, or written and not yet known: nobody reads it.

        To be called before a dataset is in the making.
        """
        rows = self._store.execute("SELECT digest FROM datasets")
        known = {f"{row['digest'].removeprefix('sha256:')}.parquet" for row in rows}
        for file in self._folder.glob("*.parquet"):
            if file.name not in known and _OURS.fullmatch(file.name):
                with contextlib.suppress(OSError):
                    file.unlink()
