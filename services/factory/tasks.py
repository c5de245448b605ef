"""The factory's tasks: which phases are owed, what was found, what is still to be said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas import Event, SkillPublished, TrainingRejected, TrainingRequested, decode, encode
from services.runtime.store import add_columns, transaction

__all__ = [
    "FORGOTTEN",
    "MAX_FAILURES",
    "ORDINALS",
    "SCHEMA",
    "SUPERSEDED",
    "Owed",
    "Phase",
    "TaskStore",
]

Phase = Literal["head", "body"]

SUPERSEDED = "superseded"
"""Reason of a rejection: a newer task of the same skill, with more data, lives on."""

FORGOTTEN = "its domain was forgotten"
"""Reason of a rejection: what it should learn from is erased."""

ORDINALS: dict[str, int] = {"head": 0, "body": 1, SUPERSEDED: 2, FORGOTTEN: 3}
"""What a task says, numbered: the events' ids derive from the task's and these."""

KEPT = 1000
"""Tasks that are remembered though nothing of them is owed: what comes again is known."""

MAX_FAILURES = 3
"""So often a phase is tried whose child ends without a result."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE, skill TEXT NOT NULL, arrived REAL NOT NULL, event BLOB NOT NULL,
    since REAL
);
CREATE INDEX IF NOT EXISTS tasks_by_skill ON tasks (skill, number);
CREATE TABLE IF NOT EXISTS phases (
    task INTEGER NOT NULL REFERENCES tasks (number),
    phase TEXT NOT NULL, due REAL NOT NULL, failures INTEGER NOT NULL DEFAULT 0,
    shrunk INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task, phase)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (skill TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, event BLOB NOT NULL
);
"""


@dataclass(frozen=True)
class Owed:
    """One phase of one task that is still to be done."""

    number: int
    event: Event[TrainingRequested]
    phase: Phase
    due: float
    """Not before this time, seconds since the epoch."""
    failures: int
    shrunk: int
    """So often its training outgrew the memory it may use."""
    arrived: float
    """When its task came, seconds since the epoch."""
    since: float
    """When the first task of the skill came that no body covers yet, seconds since the epoch."""

    @property
    def task(self) -> TrainingRequested:
        """What was asked for."""
        return self.event.data

    @property
    def key(self) -> str:
        """A name for its folder."""
        return f"{self.task.task_id}-{self.phase}"


class TaskStore:
    """Owed phases are rows: what is half done when the process dies is owed still.

    A phase ends in the same transaction that puts what is to be said of it into the outbox; what
    is said twice has the same id and is kept once.
    """

    def __init__(
        self,
        store: sqlite3.Connection,
        source: str,
        due: Callable[[float, float], float | None],
    ) -> None:
        """`due(since, arrived)`: when a body may begin; None where none is owed."""
        self._store = store
        self._source = source
        self._due = due
        add_columns(store, "tasks", {"since": "REAL"})
        add_columns(store, "phases", {"shrunk": "INTEGER NOT NULL DEFAULT 0"})

    def reschedule(self) -> None:
        """Owe bodies as the settings of today have it."""
        with transaction(self._store):
            for owed in self.owed():
                if owed.phase == "body":
                    self._schedule(owed)

    def admit(
        self,
        event: Event[TrainingRequested],
        now: float,
        running: Iterable[tuple[int, Phase]],
        *,
        mine: bool = True,
    ) -> None:
        """Copy a task; older ones of its skill that wait are superseded, running phases are not.

        Where another factory has the skill (not `mine`) that one supersedes, and says so.
        Admitting it twice changes nothing.
        """
        task = event.data
        with transaction(self._store):
            cursor = self._copy(event, now)
            if not cursor.rowcount:
                return
            self._store.execute(
                "DELETE FROM tasks WHERE number <= ? AND number NOT IN (SELECT task FROM phases)",
                ((cursor.lastrowid or 0) - KEPT,),
            )
            busy = set(running)
            for old in self.owed(task.skill) if mine else ():
                if (old.number, old.phase) not in busy:
                    self._supersede(old)
            self._store.execute(
                "INSERT INTO phases (task, phase, due) VALUES (?, 'head', ?)",
                (cursor.lastrowid, now),
            )

    def _copy(self, event: Event[TrainingRequested], now: float) -> sqlite3.Cursor:
        task = event.data
        return self._store.execute(
            "INSERT OR IGNORE INTO tasks (task_id, skill, arrived, since, event)"
            " VALUES (?, ?, ?, ?, ?)",
            (task.task_id, task.skill, now, now, encode(event)),
        )

    def _supersede(self, old: Owed) -> None:
        self._drop(old)
        self._hand_on(old)
        self._refuse(old.event, old.phase, SUPERSEDED)

    def forget(self, skill: str) -> int:
        """Refuse what is owed of a skill, within the caller's transaction; how many phases.

        Whatever is tried next is tried on other feedback: attempts are counted anew.
        """
        owed = self.owed(skill)
        for one in owed:
            self._drop(one)
            self._refuse(one.event, one.phase, FORGOTTEN)
        self._store.execute("DELETE FROM attempts WHERE skill = ?", (skill,))
        return len(owed)

    def refuse(self, event: Event[TrainingRequested], now: float) -> None:
        """A task that comes after its domain was forgotten; refusing it twice changes nothing."""
        with transaction(self._store):
            if self._copy(event, now).rowcount:  # else its end is told, or was
                self._refuse(event, "head", FORGOTTEN)

    def _refuse(self, event: Event[TrainingRequested], phase: Phase, reason: str) -> None:
        task = event.data
        self._say(
            event.derive(
                TrainingRejected(
                    task_id=task.task_id, skill=task.skill, reason=reason, metrics={}, depth=phase
                ),
                source=self._source,
                ordinal=ORDINALS[reason],
            )
        )

    def _hand_on(self, old: Owed) -> None:
        """The newest task of the skill owes its body for as long as this one did."""
        row = self._store.execute(
            "SELECT MAX(number) AS newest FROM tasks WHERE skill = ?", (old.task.skill,)
        ).fetchone()
        self._store.execute(
            "UPDATE tasks SET since = MIN(COALESCE(since, arrived), ?) WHERE number = ?",
            (old.since, row["newest"]),
        )
        for owed in self.owed(old.task.skill):
            if owed.phase == "body" and owed.number == row["newest"]:
                self._schedule(owed)

    def _schedule(self, body: Owed) -> None:
        """When a body may begin; one that failed keeps the time at which it is tried again."""
        due = self._due(body.since, body.arrived)
        if due is None:
            self._drop(body)
        elif not body.failures:
            self._store.execute(
                "UPDATE phases SET due = ? WHERE task = ? AND phase = 'body'", (due, body.number)
            )

    def supersede(self, old: Owed, *, judged: bool = False) -> None:
        """Give a phase up in favour of a newer task; `judged`: a candidate of it was."""
        with transaction(self._store):
            self._count(old, judged)
            self._supersede(old)

    def owed(self, skill: str | None = None) -> list[Owed]:
        """The phases still to be done, heads first, older tasks first."""
        rows = self._store.execute(
            "SELECT t.number, t.event, t.arrived, COALESCE(t.since, t.arrived) AS since,"
            " p.phase, p.due, p.failures, p.shrunk FROM phases p JOIN tasks t ON t.number = p.task"
            " WHERE ? IS NULL OR t.skill = ? ORDER BY p.phase = 'body', t.number",
            (skill, skill),
        ).fetchall()
        return [
            Owed(
                row["number"],
                decode(row["event"]),
                row["phase"],
                row["due"],
                row["failures"],
                row["shrunk"],
                row["arrived"],
                row["since"],
            )
            for row in rows
        ]

    def skills(self) -> set[str]:
        """The skills of which a phase is still to be done."""
        rows = self._store.execute(
            "SELECT DISTINCT t.skill FROM phases p JOIN tasks t ON t.number = p.task"
        )
        return {row["skill"] for row in rows}

    def has_newer(self, owed: Owed) -> bool:
        """A newer task of the same skill was admitted."""
        row = self._store.execute(
            "SELECT 1 FROM tasks WHERE skill = ? AND number > ? LIMIT 1",
            (owed.task.skill, owed.number),
        ).fetchone()
        return row is not None

    def heed(self, said: TrainingRejected | SkillPublished) -> Owed | None:
        """What was said of a task, here or by another factory; the phase that it ends and that was
        owed here still, if it does."""
        found = (
            it for it in self.owed() if (it.task.task_id, it.phase) == (said.task_id, said.depth)
        )
        owed = next(found, None)
        if owed is None:
            return None
        published = isinstance(said, SkillPublished)
        with transaction(self._store):
            if isinstance(said, TrainingRejected) and said.reason == SUPERSEDED:
                self._drop(owed)
                self._hand_on(owed)
            elif isinstance(said, TrainingRejected) and said.reason == FORGOTTEN:
                self._drop(owed)
            else:
                self.end(owed, (), judged=False, published=published)
                if not published and said.attempts is not None:
                    self._store.execute(
                        "INSERT OR REPLACE INTO attempts VALUES (?, ?)",
                        (owed.task.skill, said.attempts),
                    )
        return owed

    def attempts(self, skill: str) -> int:
        """Candidates judged since a version of this skill was published last, outdated ones too."""
        row = self._store.execute("SELECT count FROM attempts WHERE skill = ?", (skill,)).fetchone()
        return 0 if row is None else int(row["count"])

    def end(
        self, owed: Owed, said: Sequence[Event[Any]], *, judged: bool, published: bool = False
    ) -> None:
        """A phase is done; call inside a transaction. After a head the newest task owes a body.

        A publication starts the count of attempts anew: what comes next is judged against another
        version.
        """
        self._drop(owed)
        self._count(owed, judged)
        if published:
            self._store.execute("DELETE FROM attempts WHERE skill = ?", (owed.task.skill,))
        if owed.phase == "head":
            if self.has_newer(owed):
                self._hand_on(owed)
            elif (due := self._due(owed.since, owed.arrived)) is not None:
                self._store.execute(
                    "INSERT OR IGNORE INTO phases (task, phase, due) VALUES (?, 'body', ?)",
                    (owed.number, due),
                )
        for event in said:
            self._say(event)

    def _count(self, owed: Owed, judged: bool) -> None:
        if judged:
            self._store.execute(
                "INSERT INTO attempts VALUES (?, 1)"
                " ON CONFLICT (skill) DO UPDATE SET count = count + 1",
                (owed.task.skill,),
            )

    def postpone(
        self,
        owed: Owed,
        due: float,
        *,
        failed: bool = False,
        judged: bool = False,
        shrunk: bool = False,
    ) -> None:
        """Try again from `due` on; what was `shrunk` needs a smaller plan."""
        with transaction(self._store):
            self._count(owed, judged)
            self._store.execute(
                "UPDATE phases SET due = ?, failures = failures + ?, shrunk = shrunk + ?"
                " WHERE task = ? AND phase = ?",
                (due, int(failed), int(shrunk), owed.number, owed.phase),
            )

    def say(self, event: Event[Any]) -> None:
        """Put an event into the outbox; call inside a transaction."""
        self._say(event)

    def outbox(self) -> tuple[Event[Any], ...]:
        """What is to be said and not known to be published, oldest first."""
        rows = self._store.execute("SELECT event FROM outbox ORDER BY number")
        return tuple(decode(row["event"]) for row in rows)

    def said(self, events: Iterable[Event[Any]]) -> None:
        """These are published."""
        with transaction(self._store):
            self._store.executemany(
                "DELETE FROM outbox WHERE id = ?", [(event.id,) for event in events]
            )

    def _drop(self, owed: Owed) -> None:
        self._store.execute(
            "DELETE FROM phases WHERE task = ? AND phase = ?", (owed.number, owed.phase)
        )

    def _say(self, event: Event[Any]) -> None:
        self._store.execute(
            "INSERT OR IGNORE INTO outbox (id, event) VALUES (?, ?)", (event.id, encode(event))
        )
