"""The monitor's own store: what was judged and not yet said, and the open batch of each domain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas import Event, LearningBatchQueued, LearningEvent, decode, derived_id, encode
from services.runtime.settings import MonitorSettings
from services.runtime.store import transaction

__all__ = ["MAX_BATCH_BYTES", "SCHEMA", "Domain", "Judgement", "MonitorStore", "cause_of"]

MAX_BATCH_BYTES = 900_000
"""The events of one batch together; what the bus carries in one event is 1 MiB."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS judged (
    cause TEXT NOT NULL, ordinal INTEGER NOT NULL, event BLOB NOT NULL,
    PRIMARY KEY (cause, ordinal)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clashes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    cause TEXT NOT NULL UNIQUE,
    domain TEXT NOT NULL,
    since REAL NOT NULL,
    event BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS clashes_by_domain ON clashes (domain, number);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, event BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS tally (
    domain TEXT PRIMARY KEY, judged INTEGER NOT NULL, clashes INTEGER NOT NULL, last REAL NOT NULL
) WITHOUT ROWID;
"""


def cause_of(event: Event[Any]) -> str:
    """What names an event everywhere: its source and its id."""
    return f"{event.source}\n{event.id}"


@dataclass(frozen=True)
class Judgement:
    """What follows from one piece of feedback."""

    cause: str
    events: tuple[Event[Any], ...]
    """What is to be said, the clash included."""
    clash: Event[LearningEvent] | None = None


class Domain(NamedTuple):
    """What has been judged of one domain."""

    name: str
    judged: int
    clashes: int
    open: int
    """Clashes in its open batch."""
    last: float
    """When a piece of it was last judged; seconds since the epoch."""


class MonitorStore:
    """Each method is one transaction, and doing it twice changes nothing.

    The order that loses and doubles nothing: `record`; then acknowledge and publish in one; then
    `settle`. Killed in between, a piece is delivered again, `known` gives back the very events
    that were recorded, and the bus keeps one of each. Batches wait in the outbox until they are
    known to be published.
    """

    def __init__(self, store: sqlite3.Connection, source: str, settings: MonitorSettings) -> None:
        self._store = store
        self._source = source
        self._settings = settings

    def known(self, cause: str) -> tuple[Event[Any], ...] | None:
        """The events that an earlier, interrupted judging of this piece derived, if one did."""
        rows = self._store.execute(
            "SELECT event FROM judged WHERE cause = ? ORDER BY ordinal", (cause,)
        ).fetchall()
        return tuple(decode(row["event"]) for row in rows) or None

    def record(self, judgements: Iterable[Judgement], now: float) -> None:
        """Keep what was judged, lay clashes into their batches, queue the batches that are due.

        `now` is in seconds since the epoch.
        """
        with transaction(self._store):
            for judgement in judgements:
                if self.known(judgement.cause) is not None:
                    continue
                self._store.executemany(
                    "INSERT INTO judged VALUES (?, ?, ?)",
                    [
                        (judgement.cause, ordinal, encode(event))
                        for ordinal, event in enumerate(judgement.events)
                    ],
                )
                clash = judgement.clash
                if clash is not None and len(encode(clash)) <= MAX_BATCH_BYTES:
                    self._store.execute(
                        "INSERT OR IGNORE INTO clashes (cause, domain, since, event)"
                        " VALUES (?, ?, ?, ?)",
                        (judgement.cause, clash.data.domain, now, encode(clash)),
                    )
                self._store.execute(
                    "INSERT INTO tally VALUES (?, 1, ?, ?) ON CONFLICT (domain) DO UPDATE SET"
                    " judged = judged + 1, clashes = clashes + excluded.clashes,"
                    " last = excluded.last",
                    (judgement.events[0].data.domain, int(clash is not None), now),
                )
            self._form(now)

    def form(self, now: float) -> None:
        """Queue the batches that have become due by `now`."""
        with transaction(self._store):
            self._form(now)

    def due(self) -> float | None:
        """When the next batch becomes due by its age; None where none will by itself."""
        row = self._store.execute(
            "SELECT MIN(oldest) AS first FROM"
            " (SELECT MIN(since) AS oldest, COUNT(*) AS n FROM clashes GROUP BY domain)"
            " WHERE n >= ?",
            (self._settings.batch_min,),
        ).fetchone()
        return None if row["first"] is None else float(row["first"]) + self._settings.batch_max_age

    def waiting(self) -> int:
        """Clashes in open batches."""
        return int(self._store.execute("SELECT COUNT(*) FROM clashes").fetchone()[0])

    def domains(self, most: int) -> list[Domain]:
        """The domains of which a piece was judged last, at most so many."""
        rows = self._store.execute(
            "SELECT domain, judged, clashes, last, (SELECT COUNT(*) FROM clashes AS c"
            " WHERE c.domain = tally.domain) AS open FROM tally ORDER BY last DESC LIMIT ?",
            (most,),
        )
        return [
            Domain(row["domain"], row["judged"], row["clashes"], row["open"], row["last"])
            for row in rows
        ]

    def outbox(self) -> tuple[Event[LearningBatchQueued], ...]:
        """Batches queued and not yet known to be published, oldest first."""
        rows = self._store.execute("SELECT event FROM outbox ORDER BY number")
        return tuple(decode(row["event"]) for row in rows)

    def settle(self, causes: Sequence[str], published: Sequence[str]) -> None:
        """These pieces are acknowledged, and the batches of these event ids are published."""
        with transaction(self._store):
            self._store.executemany("DELETE FROM judged WHERE cause = ?", [(c,) for c in causes])
            self._store.executemany("DELETE FROM outbox WHERE id = ?", [(i,) for i in published])

    def forget(self, domain: str) -> int:
        """Delete what is kept of a domain, within the caller's transaction; how many rows.

        A judgement that was recorded and not said is one of them: nobody knows of it.
        """
        erased = 0
        for table in ("clashes", "tally"):
            cursor = self._store.execute(f"DELETE FROM {table} WHERE domain = ?", (domain,))  # noqa: S608  (two literals)
            erased += cursor.rowcount
        for table, key in (("judged", "cause"), ("outbox", "id")):
            rows = self._store.execute(f"SELECT {key}, event FROM {table}").fetchall()  # noqa: S608
            mine = {row[key] for row in rows if decode(row["event"]).data.domain == domain}
            self._store.executemany(
                f"DELETE FROM {table} WHERE {key} = ?",  # noqa: S608
                [(name,) for name in mine],
            )
            erased += len(mine)
        return erased

    def _form(self, now: float) -> None:
        rows = self._store.execute(
            "SELECT domain FROM clashes GROUP BY domain ORDER BY MIN(number)"
        )
        for domain in [row["domain"] for row in rows]:
            while self._is_due(domain, now):
                self._queue(domain)

    def _is_due(self, domain: str, now: float) -> bool:
        row = self._store.execute(
            "SELECT COUNT(*) AS n, MIN(since) AS oldest FROM clashes WHERE domain = ?", (domain,)
        ).fetchone()
        if row["n"] >= self._settings.batch_size:
            return True
        old = row["n"] >= self._settings.batch_min
        return bool(old and row["oldest"] + self._settings.batch_max_age <= now)

    def _queue(self, domain: str) -> None:
        """Make one batch of the oldest clashes of a domain."""
        rows = self._store.execute(
            "SELECT number, event FROM clashes WHERE domain = ? ORDER BY number LIMIT ?",
            (domain, self._settings.batch_size),
        ).fetchall()
        taken, size = 0, 0
        for row in rows:
            size += len(row["event"])
            if taken and size > MAX_BATCH_BYTES:
                break
            taken += 1
        events = [decode(row["event"]) for row in rows[:taken]]
        cause = "\n".join(event.id for event in events)
        name = derived_id(self._source, cause, LearningBatchQueued.type)
        batch = Event(
            data=LearningBatchQueued(
                batch_id=name, domain=domain, events=tuple(event.data for event in events)
            ),
            source=self._source,
            id=name,
            correlation_id=name,
            causation_id=events[-1].id,
            traceparent=events[-1].traceparent,
        )
        self._store.execute("INSERT INTO outbox (id, event) VALUES (?, ?)", (name, encode(batch)))
        self._store.executemany(
            "DELETE FROM clashes WHERE number = ?", [(row["number"],) for row in rows[:taken]]
        )
