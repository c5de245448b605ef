"""What was answered, by request: asking the same again after a crash costs nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping

from services.runtime.store import add_columns, transaction

__all__ = ["SCHEMA", "TOO_LONG", "Answers"]

TOO_LONG = b""
"""Stands for an answer that was cut off: the halves of the request are asked at once."""

MAX_AGE = 14 * 86_400.0
"""Seconds that an answer is kept: what it taught lies with the experience by then."""

MAX_BYTES = 256 << 20
"""The most that is kept; the oldest go first."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL UNIQUE, at REAL NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL,
    domain TEXT  -- null: from before domains were noted
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at);
CREATE INDEX IF NOT EXISTS answers_by_size ON answers (number, bytes);
"""


class Answers:
    """Usable answers by the digest of their request, bounded in age and bytes."""

    def __init__(
        self,
        store: sqlite3.Connection,
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._store = store
        add_columns(store, "answers", {"domain": "TEXT"})
        self._clock = clock
        self._max_bytes = max_bytes

    def get(self, key: bytes) -> bytes | None:
        """The answer to a request, if it was answered lately."""
        row = self._store.execute("SELECT body FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row["body"])

    def put(self, key: bytes, body: bytes, domain: str | None) -> None:
        """Keep an answer to what was asked for a domain; the oldest beyond the bounds go."""
        self.put_all({key: body}, domain)

    def put_all(self, found: Mapping[bytes, bytes], domain: str | None) -> None:
        """Keep answers, all or none; the oldest beyond the bounds go."""
        now = self._clock()
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR REPLACE INTO answers (key, at, bytes, body, domain)"
                " VALUES (?, ?, ?, ?, ?)",
                [(key, now, len(body), body, domain) for key, body in found.items()],
            )
            self._store.execute("DELETE FROM answers WHERE at < ?", (now - MAX_AGE,))
            (total,) = self._store.execute("SELECT SUM(bytes) FROM answers").fetchone()
            if total is not None and total > self._max_bytes:
                self._store.execute(
                    "DELETE FROM answers WHERE number <= (SELECT MAX(number) FROM"
                    " (SELECT number, SUM(bytes) OVER (ORDER BY number DESC) AS held FROM answers)"
                    " WHERE held > ?)",
                    (self._max_bytes,),
                )

    def forget(self, domain: str) -> None:
        """Delete the answers of a domain, and those of which nobody noted the domain."""
        self._store.execute("DELETE FROM answers WHERE domain = ? OR domain IS NULL", (domain,))
