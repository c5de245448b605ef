"""What the monitor remembers of each domain: passages and queries with their base vectors."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from services.runtime.store import transaction

__all__ = ["NEAR_DUPLICATE", "SCHEMA", "Asked", "Memory", "Neighbours", "Vector", "key_of"]

NEAR_DUPLICATE = 0.95
"""Cosine of base vectors from which two queries count as one question asked twice."""

QUERIES = 2048
"""Queries of each domain that are remembered."""

_RELEVANT = 64  # passages remembered per query
_KEY = 16  # bytes

SCHEMA = """
CREATE TABLE IF NOT EXISTS model (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, key BLOB NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL,
    UNIQUE (domain, key)
);
CREATE INDEX IF NOT EXISTS passages_by_key ON passages (key);
CREATE INDEX IF NOT EXISTS passages_by_domain ON passages (domain, number);
CREATE TABLE IF NOT EXISTS queries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, key BLOB NOT NULL, vector BLOB NOT NULL, relevant BLOB NOT NULL,
    UNIQUE (domain, key)
);
CREATE INDEX IF NOT EXISTS queries_by_domain ON queries (domain, number);
"""

Vector = npt.NDArray[np.float32]


def key_of(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY).digest()


@dataclass(frozen=True)
class Asked:
    """One query with its base vector and the passages found relevant to it."""

    query: str
    vector: Vector
    relevant: tuple[str, ...]


class Neighbours:
    """The remembered queries of a domain, to find what is relevant to near-duplicates of one."""

    def __init__(self, vectors: Vector, relevant: Sequence[bytes]) -> None:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = vectors / np.maximum(norms, 1e-12)
        self._relevant = relevant

    def relevant_near(self, vector: Vector) -> set[bytes]:
        """Keys of the passages relevant to a near-duplicate of the query with this base vector."""
        if not len(self._relevant):
            return set()
        cosines = self._vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        found: set[bytes] = set()
        for row in np.flatnonzero(cosines >= NEAR_DUPLICATE).tolist():
            found.update(_split(self._relevant[row]))
        return found


class Memory:
    """Bounded per domain: the oldest passages and queries are forgotten first."""

    def __init__(self, store: sqlite3.Connection, passages: int) -> None:
        self._store = store
        self._limit = passages
        self._model: str | None = None  # until the fleet has answered once, no vector is trusted

    def serves(self, model: str) -> None:
        """The vectors from now on are this model's: those of another are forgotten."""
        if model == self._model:
            return
        self._model = model
        row = self._store.execute("SELECT id FROM model").fetchone()
        if row is not None and row["id"] == model:
            return
        with transaction(self._store):
            for table in ("model", "passages", "queries"):
                self._store.execute(f"DELETE FROM {table}")  # noqa: S608  (three literals)
            self._store.execute("INSERT INTO model VALUES (?)", (model,))

    def vectors(self, texts: Iterable[str]) -> dict[str, Vector]:
        """Base vectors (dim,) of the passages among `texts` that are remembered."""
        found: dict[str, Vector] = {}
        for text in texts if self._model is not None else ():
            row = self._store.execute(
                "SELECT vector FROM passages WHERE key = ? LIMIT 1", (key_of(text),)
            ).fetchone()
            if row is not None:
                found[text] = np.frombuffer(row["vector"], np.float32)
        return found

    def remember(self, domain: str, asked: Iterable[Asked], passages: Mapping[str, Vector]) -> None:
        """Keep queries, what was relevant to them, and passages; idempotent."""
        with transaction(self._store):
            if self._limit:
                self._store.executemany(
                    "INSERT OR IGNORE INTO passages (domain, key, text, vector)"
                    " VALUES (?, ?, ?, ?)",
                    [(domain, key_of(text), text, _raw(v)) for text, v in passages.items()],
                )
            for one in asked:
                self._remember(domain, one)
            for table, limit in (("passages", self._limit), ("queries", QUERIES)):
                self._store.execute(
                    f"DELETE FROM {table} WHERE domain = ? AND number <= (SELECT number FROM"  # noqa: S608
                    f" {table} WHERE domain = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (domain, domain, limit),
                )

    def forget(self, domain: str) -> int:
        """Delete what is remembered of a domain, within the caller's transaction; how many rows."""
        return sum(
            self._store.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,)).rowcount  # noqa: S608
            for table in ("passages", "queries")
        )

    def _remember(self, domain: str, asked: Asked) -> None:
        key = key_of(asked.query)
        row = self._store.execute(
            "SELECT relevant FROM queries WHERE domain = ? AND key = ?", (domain, key)
        ).fetchone()
        before = [] if row is None else _split(row["relevant"])
        joined = list(dict.fromkeys([*before, *map(key_of, asked.relevant)]))[-_RELEVANT:]
        self._store.execute(
            "INSERT INTO queries (domain, key, vector, relevant) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (domain, key) DO UPDATE SET relevant = excluded.relevant",
            (domain, key, _raw(asked.vector), b"".join(joined)),
        )

    def neighbours(self, domain: str) -> Neighbours:
        """The queries remembered of a domain."""
        rows = self._store.execute(
            "SELECT vector, relevant FROM queries WHERE domain = ?", (domain,)
        ).fetchall()
        if not rows:
            return Neighbours(np.zeros((0, 1), np.float32), ())
        vectors = np.stack([np.frombuffer(row["vector"], np.float32) for row in rows])
        return Neighbours(vectors, [row["relevant"] for row in rows])

    def sample(self, domain: str, count: int, seed: str) -> dict[str, Vector]:
        """Up to `count` passages of a domain, drawn by `seed`, with their base vectors."""
        rows = self._store.execute(
            "SELECT number FROM passages WHERE domain = ? ORDER BY number", (domain,)
        ).fetchall()
        numbers = [row["number"] for row in rows]
        if len(numbers) > count:
            numbers = Random(seed).sample(numbers, count)
        found: dict[str, Vector] = {}
        for number in numbers:
            row = self._store.execute(
                "SELECT text, vector FROM passages WHERE number = ?", (number,)
            ).fetchone()
            found[row["text"]] = np.frombuffer(row["vector"], np.float32)
        return found


def _raw(vector: Vector) -> bytes:
    return np.ascontiguousarray(vector, np.float32).tobytes()


def _split(keys: bytes) -> list[bytes]:
    return [keys[at : at + _KEY] for at in range(0, len(keys), _KEY)]
