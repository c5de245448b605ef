"""The datasets that were made: of each domain the last few stay, so the folder is bounded."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

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
"""


class DatasetFolder:
    """Knows which dataset is of which domain, and deletes the oldest."""

    def __init__(self, store: sqlite3.Connection, folder: Path) -> None:
        self._store = store
        self._folder = folder

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
        old = self._store.execute(
            "SELECT digest FROM datasets WHERE domain = ? AND made < ? AND number NOT IN"
            " (SELECT number FROM datasets WHERE domain = ? ORDER BY number DESC LIMIT ?)",
            (domain, now - GRACE, domain, KEPT),
        ).fetchall()
        for row in old:
            with contextlib.suppress(OSError):  # tried again after the next one
                self._unlink(row["digest"])
                self._store.execute("DELETE FROM datasets WHERE digest = ?", (row["digest"],))

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
        if self._store.execute(known, (digest,)).fetchone() is None:
            self._unlink(digest)

    def _unlink(self, digest: str) -> None:
        (self._folder / f"{digest.removeprefix('sha256:')}.parquet").unlink(missing_ok=True)

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
