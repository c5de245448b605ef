"""Feedback, kept for two ends: what other skills must not steal, and the shadow comparison."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from schemas import FeedbackJudged
from services.runtime.store import transaction
from services.runtime.vector_store import MODEL_SCHEMA, key_of, serve_model

__all__ = ["KEPT", "SCHEMA", "FeedbackStore", "Piece"]

KEPT = 5000
"""Pieces kept of each domain, the newest ones."""

SCHEMA = (
    MODEL_SCHEMA
    + """
CREATE TABLE IF NOT EXISTS feedback (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, domain TEXT NOT NULL, at REAL NOT NULL,
    query TEXT NOT NULL, key BLOB NOT NULL, relevant TEXT NOT NULL, irrelevant TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS feedback_by_domain ON feedback (domain, number);
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
"""
)

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """What people said of one query."""

    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]


class FeedbackStore:
    """Bounded per domain; keeping a piece twice changes nothing."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def keep(self, pieces: Sequence[tuple[FeedbackJudged, float]]) -> None:
        """Keep pieces, each with when it was judged, in seconds since the epoch."""
        if not pieces:
            return
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR IGNORE INTO feedback"
                " (id, domain, at, query, key, relevant, irrelevant) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        f"{data.feedback_id} {key_of(data.domain + data.query).hex()}",
                        data.domain,
                        at,
                        data.query,
                        key_of(data.query),
                        msgspec.json.encode(data.relevant).decode(),
                        msgspec.json.encode(data.irrelevant).decode(),
                    )
                    for data, at in pieces
                ],
            )
            for domain in {data.domain for data, _ in pieces}:
                self._store.execute(
                    "DELETE FROM feedback WHERE domain = ? AND number <= (SELECT number"
                    " FROM feedback WHERE domain = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (domain, domain, KEPT),
                )

    def forget(self, domain: str) -> int:
        """Delete a domain's pieces, within the caller's transaction; how many."""
        erased = self._store.execute("DELETE FROM feedback WHERE domain = ?", (domain,)).rowcount
        self._store.execute("DELETE FROM vectors WHERE key NOT IN (SELECT key FROM feedback)")
        return erased

    def serves(self, sha256: str) -> None:
        """Vectors are of the model with these weights: those of another are forgotten."""
        serve_model(self._store, sha256)

    def without_vector(self, limit: int) -> list[str]:
        """Up to `limit` queries whose base vectors are not kept yet."""
        rows = self._store.execute(
            "SELECT DISTINCT query FROM feedback f"
            " WHERE NOT EXISTS (SELECT 1 FROM vectors v WHERE v.key = f.key) LIMIT ?",
            (limit,),
        )
        return [row["query"] for row in rows]

    def keep_vectors(self, vectors: Mapping[str, Vector]) -> None:
        """Keep base vectors (dim,) of queries, and drop those of queries that are gone."""
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                [
                    (key_of(text), np.ascontiguousarray(vector, np.float32).tobytes())
                    for text, vector in vectors.items()
                ],
            )
            self._store.execute("DELETE FROM vectors WHERE key NOT IN (SELECT key FROM feedback)")

    def others(self, domain: str, most: int, seed: int = 0) -> Vector | None:
        """Base vectors (n, dim) of queries of all other domains, `most` of them drawn by `seed`.

        A query that was asked in this domain too is no negative; None where there are none.
        """
        keys = [
            row["key"]
            for row in self._store.execute(
                "SELECT v.key FROM vectors v WHERE v.key IN"
                " (SELECT key FROM feedback WHERE domain != ?) AND v.key NOT IN"
                " (SELECT key FROM feedback WHERE domain = ?) ORDER BY v.key",
                (domain, domain),
            )
        ]
        if not keys:
            return None
        drawn = np.random.default_rng(seed).permutation(len(keys))[:most]
        find = "SELECT vector FROM vectors WHERE key = ?"
        rows = [self._store.execute(find, (keys[at],)).fetchone() for at in drawn.tolist()]
        return np.stack([np.frombuffer(row["vector"], np.float32) for row in rows])

    def count_since(self, domain: str, at: float) -> int:
        """Pieces of a domain with a relevant passage, judged after a time."""
        row = self._store.execute(
            "SELECT COUNT(*) FROM feedback WHERE domain = ? AND at > ? AND relevant != '[]'",
            (domain, at),
        ).fetchone()
        return int(row[0])

    def since(self, domain: str, at: float) -> Sequence[Piece]:
        """Those pieces, oldest first."""
        rows = self._store.execute(
            "SELECT query, relevant, irrelevant FROM feedback"
            " WHERE domain = ? AND at > ? AND relevant != '[]' ORDER BY number",
            (domain, at),
        )
        texts = msgspec.json.Decoder(tuple[str, ...])
        return [
            Piece(row["query"], texts.decode(row["relevant"]), texts.decode(row["irrelevant"]))
            for row in rows
        ]
