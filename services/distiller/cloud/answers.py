"""What was answered, by request: asking the same again after a crash costs nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from services.runtime.store import transaction

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
    key BLOB NOT NULL UNIQUE, at REAL NOT NULL, bytes INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_size ON answers (number, at, bytes);
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
        self._clock = clock
        self._max_bytes = max_bytes

    def get(self, key: bytes) -> bytes | None:
        """The answer to a request, if it was answered lately."""
        row = self._store.execute("SELECT body FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row["body"])

    def put(self, key: bytes, body: bytes) -> None:
        """Keep an answer; the oldest beyond the bounds go."""
        now = self._clock()
        with transaction(self._store):
            self._store.execute(
                "INSERT OR REPLACE INTO answers (key, at, bytes, body) VALUES (?, ?, ?, ?)",
                (key, now, len(body), body),
            )
            self._store.execute(
                "DELETE FROM answers WHERE at < ? OR number <= (SELECT number FROM"
                " (SELECT number, SUM(bytes) OVER (ORDER BY number DESC) AS total FROM answers)"
                " WHERE total > ? ORDER BY number DESC LIMIT 1)",
                (now - MAX_AGE, self._max_bytes),
            )
