"""The distiller's orders: batches that are owed a dataset, and what is still to be said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas import Event, LearningBatchQueued, decode, encode
from services.runtime.store import transaction

__all__ = ["SCHEMA", "Order", "OrderStore", "Wait"]

KEPT = 1000
"""Batches that are remembered though nothing is owed to them: what comes again is known."""

TOGETHER = 512
"""Waiting batches of one domain that share a dataset; the rest make the next one."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, id TEXT NOT NULL, domain TEXT NOT NULL,
    event BLOB,  -- null: nothing is owed any more
    UNIQUE (source, id)
);
CREATE INDEX IF NOT EXISTS orders_owed ON orders (domain, number) WHERE event IS NOT NULL;
CREATE TABLE IF NOT EXISTS waits (
    domain TEXT PRIMARY KEY, since REAL NOT NULL, due REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tries (
    domain TEXT PRIMARY KEY, count INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, event BLOB NOT NULL
);
"""


@dataclass(frozen=True)
class Wait:
    """A domain's orders wait for their teacher."""

    since: float
    """When the teacher was first not to be had, seconds since the epoch."""
    due: float
    """When it is asked again, seconds since the epoch."""


@dataclass(frozen=True)
class Order:
    """The batches of one domain that wait together, oldest first."""

    domain: str
    numbers: tuple[int, ...]
    batches: tuple[Event[LearningBatchQueued], ...]

    @property
    def prompts(self) -> list[str]:
        """The queries of all its clashes, each once."""
        clashes = (clash for batch in self.batches for clash in batch.data.events)
        return list(dict.fromkeys(clash.prompt for clash in clashes))

    @property
    def novel(self) -> set[str]:
        """Those of its prompts that no skill covers."""
        clashes = (clash for batch in self.batches for clash in batch.data.events)
        return {clash.prompt for clash in clashes if clash.reason == "novel"}


class OrderStore:
    """Owed batches are rows: what is half done when the process dies is owed still.

    An order ends in the same transaction that puts what is to be said of it into the outbox; what
    is said twice has the same id and is kept once.
    """

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def admit(self, batches: Sequence[Event[LearningBatchQueued]]) -> None:
        """Copy batches; one that is known, owed or done, changes nothing."""
        if not batches:
            return
        with transaction(self._store):
            self._store.executemany(
                "INSERT OR IGNORE INTO orders (source, id, domain, event) VALUES (?, ?, ?, ?)",
                [(one.source, one.id, one.data.domain, encode(one)) for one in batches],
            )

    def domains(self) -> dict[str, Wait | None]:
        """Domains to which something is owed, the longest waiting first."""
        rows = self._store.execute(
            "SELECT o.domain, w.since, w.due FROM orders o LEFT JOIN waits w USING (domain)"
            " WHERE o.event IS NOT NULL GROUP BY o.domain ORDER BY MIN(o.number)"
        )
        return {
            row["domain"]: None if row["since"] is None else Wait(row["since"], row["due"])
            for row in rows
        }

    def owed(self) -> int:
        """Batches that wait, or are in hand."""
        row = self._store.execute("SELECT COUNT(*) FROM orders WHERE event IS NOT NULL").fetchone()
        return int(row[0])

    def of(self, domain: str) -> Order:
        """The batches of a domain that are owed a dataset, all that one may have."""
        rows = self._store.execute(
            "SELECT number, event FROM orders WHERE domain = ? AND event IS NOT NULL"
            " ORDER BY number LIMIT ?",
            (domain, TOGETHER),
        ).fetchall()
        numbers = tuple(int(row["number"]) for row in rows)
        return Order(domain, numbers, tuple(decode(row["event"]) for row in rows))

    def wait(self, domain: str, wait: Wait) -> None:
        """The domain's orders, those that come meanwhile too, wait for the teacher."""
        with transaction(self._store):
            self._store.execute(
                "INSERT OR REPLACE INTO waits VALUES (?, ?, ?)", (domain, wait.since, wait.due)
            )

    def begin(self, domain: str) -> int:
        """A domain's dataset is about to be made; how often that began, this time included.

        Counted are the times since the process last survived it.
        """
        with transaction(self._store):
            self._store.execute(
                "INSERT INTO tries VALUES (?, 1)"
                " ON CONFLICT (domain) DO UPDATE SET count = count + 1",
                (domain,),
            )
            row = self._store.execute("SELECT count FROM tries WHERE domain = ?", (domain,))
            return int(row.fetchone()[0])

    def survived(self, domain: str) -> None:
        """The making has ended, one way or another, and the process is there to tell."""
        with transaction(self._store):
            self._store.execute("DELETE FROM tries WHERE domain = ?", (domain,))

    def end(self, order: Order, said: Iterable[Event[Any]]) -> None:
        """An order is done, and this is to be said of it."""
        with transaction(self._store):
            self._store.executemany(
                "UPDATE orders SET event = NULL WHERE number = ?", [(n,) for n in order.numbers]
            )
            self._store.execute(
                "DELETE FROM orders WHERE event IS NULL AND number <= ?",
                (max(order.numbers, default=0) - KEPT,),
            )
            for table in ("waits", "tries"):
                self._store.execute(f"DELETE FROM {table} WHERE domain = ?", (order.domain,))  # noqa: S608
            self._say(said)

    def forget(
        self, domain: str, refusal: Callable[[Event[LearningBatchQueued]], Event[Any]]
    ) -> int:
        """Refuse what is owed to a domain, within the caller's transaction; how many batches."""
        rows = self._store.execute(
            "SELECT event FROM orders WHERE domain = ? AND event IS NOT NULL ORDER BY number",
            (domain,),
        ).fetchall()
        said = [refusal(decode(row["event"])) for row in rows]
        self._store.execute("UPDATE orders SET event = NULL WHERE domain = ?", (domain,))
        for table in ("waits", "tries"):
            self._store.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,))  # noqa: S608
        self._say(said)
        return len(rows)

    def _say(self, events: Iterable[Event[Any]]) -> None:
        self._store.executemany(
            "INSERT OR IGNORE INTO outbox (id, event) VALUES (?, ?)",
            [(event.id, encode(event)) for event in events],
        )

    def outbox(self) -> tuple[Event[Any], ...]:
        """What is to be said and not known to be published, oldest first."""
        rows = self._store.execute("SELECT event FROM outbox ORDER BY number")
        return tuple(decode(row["event"]) for row in rows)

    def said(self, events: Iterable[Event[Any]]) -> None:
        """These are published."""
        ids = [(event.id,) for event in events]
        if ids:
            with transaction(self._store):
                self._store.executemany("DELETE FROM outbox WHERE id = ?", ids)
