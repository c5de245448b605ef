"""What teachers ever said of each domain, and what they were not asked yet."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from services.distiller.experience import key_of
from services.distiller.teacher import Contribution, Material, Pair
from services.runtime.store import transaction

__all__ = ["SCHEMA", "Open", "TaughtStore"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS taught (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, teacher TEXT NOT NULL, kind TEXT NOT NULL,
    query TEXT NOT NULL, passage TEXT NOT NULL, value REAL NOT NULL, origin TEXT,
    name BLOB NOT NULL UNIQUE
);
CREATE INDEX IF NOT EXISTS taught_by_domain ON taught (domain, number);
CREATE TABLE IF NOT EXISTS spaces (
    teacher TEXT PRIMARY KEY, space TEXT NOT NULL, width INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS teacher_vectors (
    teacher TEXT NOT NULL, key BLOB NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (teacher, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS questions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL, teacher TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    key BLOB NOT NULL, novel INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 0,
    UNIQUE (domain, teacher, role, key)
);
CREATE TABLE IF NOT EXISTS reasons (
    domain TEXT PRIMARY KEY, reason TEXT NOT NULL
) WITHOUT ROWID;
"""

Role = Literal["query", "passage"]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Open:
    """A text that a teacher has not been asked about."""

    text: str
    novel: bool


class TaughtStore:
    """Every method is one transaction; keeping the same twice changes nothing."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def wonder(
        self,
        domain: str,
        teacher: str,
        role: Role,
        texts: Iterable[str],
        novel: Collection[str] = (),
    ) -> None:
        """These are to be asked about, unless they were."""
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR IGNORE INTO questions (domain, teacher, role, text, key, novel)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [(domain, teacher, role, text, key_of(text), int(text in novel)) for text in texts],
            )

    def open(self, domain: str, teacher: str, role: Role) -> list[Open]:
        """What is still to be asked about, in the sequence in which it came."""
        rows = self._store.execute(
            "SELECT text, novel FROM questions WHERE domain = ? AND teacher = ? AND role = ?"
            " AND NOT asked ORDER BY number",
            (domain, teacher, role),
        )
        return [Open(row["text"], bool(row["novel"])) for row in rows]

    def keep(
        self, domain: str, teacher: str, material: Material, contribution: Contribution
    ) -> None:
        """Keep what a teacher said of the material, and that it was asked."""
        left = contribution.left
        if contribution.again is not None and not left:
            left = frozenset((*(asked.text for asked in material.queries), *material.passages))
        done = [("query", asked.text) for asked in material.queries if asked.text not in left]
        done += [("passage", text) for text in material.passages if text not in left]
        with transaction(self._store):
            for pair in contribution.pairs:
                self._keep_pair(domain, teacher, pair)
            self._keep_vectors(teacher, contribution)
            self._store.executemany(
                "UPDATE questions SET asked = 1"
                " WHERE domain = ? AND teacher = ? AND role = ? AND key = ?",
                [(domain, teacher, role, key_of(text)) for role, text in done],
            )
            self._store.execute("DELETE FROM reasons WHERE domain = ?", (domain,))
            if contribution.reason is not None:
                reason = (domain, contribution.reason)
                self._store.execute("INSERT INTO reasons VALUES (?, ?)", reason)

    def _keep_pair(self, domain: str, teacher: str, pair: Pair) -> None:
        texts = (pair.query, pair.passage, pair.origin or "")
        if not all(map(_is_text, texts)) or math.isnan(pair.value):  # SQLite keeps neither
            return
        name = key_of("\n".join((domain, teacher, pair.kind, *(key_of(t).hex() for t in texts))))
        self._store.execute(
            "INSERT INTO taught (domain, teacher, kind, query, passage, value, origin, name)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (
                domain,
                teacher,
                pair.kind,
                pair.query,
                pair.passage,
                float(pair.value),
                pair.origin,
                name,
            ),
        )

    def _keep_vectors(self, teacher: str, contribution: Contribution) -> None:
        widths = {len(vector) for vector in contribution.vectors.values()}
        if len(widths) != 1:  # none, or vectors that cannot be compared
            return
        mark = (contribution.space, widths.pop())
        row = self._store.execute(
            "SELECT space, width FROM spaces WHERE teacher = ?", (teacher,)
        ).fetchone()
        if row is None or (row["space"], row["width"]) != mark:
            self._store.execute("DELETE FROM teacher_vectors WHERE teacher = ?", (teacher,))
            self._store.execute("INSERT OR REPLACE INTO spaces VALUES (?, ?, ?)", (teacher, *mark))
        self._store.executemany(
            "INSERT OR REPLACE INTO teacher_vectors VALUES (?, ?, ?)",
            [
                (teacher, key_of(text), _packed(vector))
                for text, vector in contribution.vectors.items()
                if np.isfinite(vector).all()
            ],
        )

    def reason(self, domain: str) -> str | None:
        """Why the teacher, when it was last asked about this domain, gave nothing or less."""
        row = self._store.execute(
            "SELECT reason FROM reasons WHERE domain = ?", (domain,)
        ).fetchone()
        return None if row is None else str(row["reason"])

    def settle(self, domain: str) -> None:
        """Its order is done: why the teacher gave less has been told."""
        self._store.execute("DELETE FROM reasons WHERE domain = ?", (domain,))

    def forget(self, domain: str, keys: Collection[bytes]) -> int:
        """Delete what was taught to a domain, within the caller's transaction; how many rows.

        `keys` are those of its texts; vectors stay of texts that another domain has, too.
        """
        gone = set(keys)
        kept = {bytes(row["key"]) for row in self._store.execute("SELECT key FROM texts")}
        for row in self._store.execute("SELECT domain, query, passage, origin FROM taught"):
            texts = (row["query"], row["passage"], row["origin"] or "")
            (gone if row["domain"] == domain else kept).update(map(key_of, texts))
        for row in self._store.execute("SELECT domain, key FROM questions"):
            (gone if row["domain"] == domain else kept).add(bytes(row["key"]))
        self._store.executemany(
            "DELETE FROM teacher_vectors WHERE key = ?", [(key,) for key in gone - kept]
        )
        return sum(
            self._store.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,)).rowcount  # noqa: S608  (literals)
            for table in ("taught", "questions", "reasons")
        )

    def lessons(self, domain: str, texts: Collection[str], first: str) -> dict[str, Contribution]:
        """Everything that was ever taught to a domain, by teacher, `first` the one of that name.

        Vectors are those of `texts` and of the queries and passages of the pairs.
        """
        rows = self._store.execute(
            "SELECT teacher, kind, query, passage, value, origin FROM taught"
            " WHERE domain = ? ORDER BY teacher != ?, teacher, number",
            (domain, first),
        )
        pairs: dict[str, list[Pair]] = {}
        for row in rows:
            pairs.setdefault(row["teacher"], []).append(
                Pair(row["query"], row["passage"], row["value"], row["kind"], row["origin"])
            )
        names = [row["teacher"] for row in self._store.execute("SELECT teacher FROM spaces")]
        found = {}
        for teacher in dict.fromkeys((first, *pairs, *sorted(names))):
            said = tuple(pairs.get(teacher, ()))
            if said or teacher in names:
                wanted = {*texts, *(text for pair in said for text in (pair.query, pair.passage))}
                found[teacher] = Contribution(said, self._vectors(teacher, wanted))
        return found

    def _vectors(self, teacher: str, texts: Collection[str]) -> dict[str, Vector]:
        found = {}
        for text in sorted(texts):
            row = self._store.execute(
                "SELECT vector FROM teacher_vectors WHERE teacher = ? AND key = ?",
                (teacher, key_of(text)),
            ).fetchone()
            if row is not None:
                found[text] = np.frombuffer(row["vector"], np.float16).astype(np.float32)
        return found


def _packed(vector: Vector) -> bytes:
    """Length 1, half precision: directions are compared, and a thousand of them add up."""
    length = max(float(np.linalg.norm(vector)), 1e-12)
    return (np.asarray(vector, np.float32) / length).astype(np.float16).tobytes()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
