"""The experience store: all feedback, each query's group and fold for ever, and base vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora.training.folds import assign_groups, fold_of
from schemas import FeedbackJudged, LearningEvent
from services.runtime.store import transaction
from services.runtime.vector_store import MODEL_SCHEMA, key_of, serve_model

__all__ = ["SCHEMA", "Experience", "ExperienceStore", "Piece", "Query", "key_of"]

KNOWN = 20_000
"""Queries of a domain, the newest ones, among which a near-duplicate of a new one is looked for."""

SCHEMA = (
    MODEL_SCHEMA
    + """
CREATE TABLE IF NOT EXISTS texts (key BLOB PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (
    key BLOB NOT NULL, role TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (key, role)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, key BLOB NOT NULL,
    "group" INTEGER NOT NULL, fold INTEGER NOT NULL,
    UNIQUE (domain, key)
);
CREATE TABLE IF NOT EXISTS feedback (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    query INTEGER NOT NULL REFERENCES queries (number),
    rouge_score REAL NOT NULL, entropy_delta REAL NOT NULL, margin REAL, served TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS feedback_by_query ON feedback (query, number);
CREATE TABLE IF NOT EXISTS labels (
    feedback INTEGER NOT NULL REFERENCES feedback (number),
    key BLOB NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (feedback, key)
) WITHOUT ROWID;
"""
)

_KEYS = """
SELECT key FROM queries WHERE domain = ? UNION SELECT l.key FROM labels l
    JOIN feedback f ON f.number = l.feedback JOIN queries q ON q.number = f.query
    WHERE q.domain = ?
"""

_FORGET = (
    "DELETE FROM labels WHERE feedback IN (SELECT f.number FROM feedback f"
    " JOIN queries q ON q.number = f.query WHERE q.domain = ?)",
    "DELETE FROM feedback WHERE query IN (SELECT number FROM queries WHERE domain = ?)",
    "DELETE FROM queries WHERE domain = ?",
)

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """One piece of feedback, as the monitor judged it."""

    id: str
    domain: str
    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]
    rouge_score: float
    entropy_delta: float
    margin: float | None
    served: tuple[str, ...] = ()

    @classmethod
    def judged(cls, data: FeedbackJudged) -> Piece:
        """From what the monitor says of every piece."""
        return cls(
            id=data.feedback_id,
            domain=data.domain,
            query=data.query,
            relevant=data.relevant,
            irrelevant=data.irrelevant,
            rouge_score=data.rouge_score,
            entropy_delta=data.entropy_delta,
            margin=data.margin,
            served=data.served,
        )

    @classmethod
    def clashed(cls, data: LearningEvent) -> Piece:
        """From a clash in a batch, whose `feedback.judged` may still be on its way."""
        texts = "\n".join((data.domain, data.prompt, *data.positives, "", *data.negatives))
        return cls(
            id=data.feedback_id or key_of(texts).hex(),
            domain=data.domain,
            query=data.prompt,
            relevant=data.positives,
            irrelevant=data.negatives,
            rouge_score=data.rouge_score,
            entropy_delta=data.entropy_delta,
            margin=data.margin,
        )

    @property
    def name(self) -> str:
        """What tells it from every other piece: an id alone is unique within its source only."""
        return key_of("\n".join((self.id, self.domain, self.query))).hex()

    @property
    def passages(self) -> tuple[str, ...]:
        """Relevant, then irrelevant."""
        return self.relevant + self.irrelevant


@dataclass(frozen=True)
class Query:
    """A query of a domain with everything that was ever said of it."""

    text: str
    group: int
    fold: int
    labels: Mapping[bytes, float]
    """Passage keys and 1 (relevant) or 0: where two pieces disagree the later one holds."""

    @property
    def relevant(self) -> bool:
        """Something is known to be relevant to it."""
        return any(value >= 0.5 for value in self.labels.values())


@dataclass(frozen=True)
class Experience:
    """A stretch of a domain's experience: newest query groups first."""

    queries: tuple[Query, ...]
    passages: Mapping[bytes, str]


class ExperienceStore:
    """Every method is one transaction; learning a piece twice changes nothing."""

    def __init__(self, store: sqlite3.Connection, near_duplicate: float) -> None:
        self._store = store
        self._near = near_duplicate

    def serves(self, sha256: str) -> None:
        """Vectors are of the model with these weights: those of another are forgotten."""
        serve_model(self._store, sha256)

    def vectors(self, texts: Iterable[str], role: str) -> dict[str, Vector]:
        """Base vectors (dim,) of those texts that are known in this role."""
        found = {}
        for text in texts:
            row = self._store.execute(
                "SELECT vector FROM vectors WHERE key = ? AND role = ?", (key_of(text), role)
            ).fetchone()
            if row is not None:
                found[text] = np.frombuffer(row["vector"], np.float32)
        return found

    def keep_vectors(self, vectors: Mapping[str, Vector], role: str) -> None:
        """Keep base vectors (dim,) by text."""
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                [
                    (key_of(text), role, np.ascontiguousarray(vector, np.float32).tobytes())
                    for text, vector in vectors.items()
                ],
            )

    def learn(self, pieces: Sequence[Piece]) -> None:
        """Keep pieces whose queries' vectors are kept; new queries get their group and fold."""
        with transaction(self._store):
            by_domain: dict[str, list[Piece]] = {}
            for piece in pieces:
                by_domain.setdefault(piece.domain, []).append(piece)
            for domain, said in by_domain.items():
                self._place(domain, list(dict.fromkeys(piece.query for piece in said)))
                for piece in said:
                    self._keep(piece)

    def _place(self, domain: str, queries: Sequence[str]) -> None:
        fresh = [query for query in queries if self._number(domain, query) is None]
        if not fresh:
            return
        known = self._store.execute(
            'SELECT v.vector, q."group" FROM queries q JOIN vectors v'
            " ON v.key = q.key AND v.role = 'query' WHERE q.domain = ?"
            " ORDER BY q.number DESC LIMIT ?",
            (domain, KNOWN),
        ).fetchall()
        vectors = self.vectors(fresh, "query")
        groups = assign_groups(
            fresh,
            np.stack([vectors[query] for query in fresh]),
            known_vectors=(
                np.stack([np.frombuffer(row["vector"], np.float32) for row in known])
                if known
                else None
            ),
            known_groups=[row["group"] for row in known],
            threshold=self._near,
        )
        for query, group in zip(fresh, groups.tolist(), strict=True):
            key = key_of(query)
            self._store.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (key, query))
            self._store.execute(
                'INSERT INTO queries (domain, key, "group", fold) VALUES (?, ?, ?, ?)',
                (domain, key, group, fold_of(group)),
            )

    def _keep(self, piece: Piece) -> None:
        cursor = self._store.execute(
            "INSERT OR IGNORE INTO feedback"
            " (name, query, rouge_score, entropy_delta, margin, served) VALUES (?, ?, ?, ?, ?, ?)",
            (
                piece.name,
                self._number(piece.domain, piece.query),
                piece.rouge_score,
                piece.entropy_delta,
                piece.margin,
                " ".join(piece.served),
            ),
        )
        if not cursor.rowcount:
            return
        values = dict.fromkeys(piece.irrelevant, 0.0) | dict.fromkeys(piece.relevant, 1.0)
        for text, value in values.items():
            key = key_of(text)
            self._store.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (key, text))
            self._store.execute(
                "INSERT INTO labels VALUES (?, ?, ?)", (cursor.lastrowid, key, value)
            )

    def _number(self, domain: str, query: str) -> int | None:
        row = self._store.execute(
            "SELECT number FROM queries WHERE domain = ? AND key = ?", (domain, key_of(query))
        ).fetchone()
        return None if row is None else int(row["number"])

    def recall(self, domain: str, first: Iterable[str], groups: int) -> Experience:
        """The domain's experience: the groups of the queries `first`, and `groups` others.

        The newest groups come first, by their latest feedback.
        """
        rows = self._store.execute(
            'SELECT q.number, q.key, q."group", q.fold, t.text, MAX(f.number) AS latest'
            " FROM queries q JOIN feedback f ON f.query = q.number JOIN texts t ON t.key = q.key"
            " WHERE q.domain = ? GROUP BY q.number ORDER BY latest DESC",
            (domain,),
        ).fetchall()
        wanted = {key_of(text) for text in first}
        chosen = {row["group"] for row in rows if row["key"] in wanted}
        others = dict.fromkeys(row["group"] for row in rows if row["group"] not in chosen)
        chosen |= set(list(others)[:groups])
        queries, keys = [], set()
        for row in rows:
            if row["group"] not in chosen:
                continue
            labels = self._labels(row["number"])
            keys |= set(labels)
            queries.append(Query(row["text"], row["group"], row["fold"], labels))
        return Experience(tuple(queries), self._texts(keys))

    def _labels(self, query: int) -> dict[bytes, float]:
        rows = self._store.execute(
            "SELECT l.key, l.value FROM feedback f JOIN labels l ON l.feedback = f.number"
            " WHERE f.query = ? ORDER BY f.number",
            (query,),
        )
        return {row["key"]: float(row["value"]) for row in rows}

    def _texts(self, keys: Iterable[bytes]) -> dict[bytes, str]:
        found: dict[bytes, Any] = {}
        for key in sorted(keys):
            row = self._store.execute("SELECT text FROM texts WHERE key = ?", (key,)).fetchone()
            found[key] = row["text"]
        return found

    def forget(self, domain: str) -> tuple[int, set[bytes]]:
        """Delete a domain, within the caller's transaction; how many rows, and keys of its texts.

        Texts and vectors stay where another domain has them; vectors of what teachers wrote for
        another one go too, and are asked for again.
        """
        keys = self._store.execute(_KEYS, (domain, domain)).fetchall()
        erased = sum(self._store.execute(delete, (domain,)).rowcount for delete in _FORGET)
        for table in ("texts", "vectors"):
            self._store.execute(
                f"DELETE FROM {table} WHERE key NOT IN"  # noqa: S608
                " (SELECT key FROM queries UNION SELECT key FROM labels)"
            )
        return erased, {bytes(row["key"]) for row in keys}

    def counts(self) -> dict[str, int]:
        """Pieces and queries kept."""
        return {
            table: int(self._store.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608
            for table in ("feedback", "queries")
        }
