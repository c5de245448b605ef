"""A witness in the journal's own file: triggers note every turn of every lease.

What they note is committed with the turn itself or not at all, so that it tells what the journal
did, whatever its answers became on their way.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bus.journal import Journal
from tests.torture.journal.history import Turn

__all__ = ["install", "turns"]

_NOTE = "INSERT INTO witness (what, grp, sequence, attempt, lease, at, until) SELECT"
_SCRIPT = """
CREATE TABLE witness (
    n INTEGER PRIMARY KEY, what TEXT, grp TEXT, sequence INTEGER, attempt INTEGER, lease TEXT,
    at REAL, until REAL);
CREATE TRIGGER witness_fresh AFTER INSERT ON pending BEGIN
    NOTE iif(NEW.lease IS NULL, 'retry', 'fresh'), NEW.grp, NEW.sequence, NEW.attempt,
    NEW.lease, 0, NEW.due; END;
CREATE TRIGGER witness_again AFTER UPDATE ON pending
    WHEN NEW.lease IS NOT NULL AND NEW.lease IS NOT OLD.lease BEGIN
    NOTE iif(OLD.lease IS NULL, 'again', 'stolen'), NEW.grp, NEW.sequence, NEW.attempt,
    NEW.lease, 0, NEW.due; END;
CREATE TRIGGER witness_back AFTER UPDATE ON pending
    WHEN NEW.lease IS NULL AND OLD.lease IS NOT NULL BEGIN
    NOTE CASE WHEN NEW.lapsed > OLD.lapsed THEN 'lapse' WHEN NEW.failed > OLD.failed THEN 'nack'
    ELSE 'back' END, NEW.grp, NEW.sequence, NEW.attempt, OLD.lease, NEW.due, OLD.due; END;
CREATE TRIGGER witness_end AFTER DELETE ON pending BEGIN
    NOTE CASE WHEN EXISTS (SELECT 1 FROM dead WHERE grp = OLD.grp AND sequence = OLD.sequence)
    THEN 'dead' WHEN OLD.lease IS NULL THEN 'gone' ELSE 'ack' END, OLD.grp, OLD.sequence,
    OLD.attempt, OLD.lease, 0, OLD.due; END;
"""


def install(path: Path) -> None:
    """Make the journal at `path`, and its witness; before any broker uses it."""
    Journal(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(_SCRIPT.replace("NOTE", _NOTE))


def turns(path: Path) -> list[Turn]:
    """What the witness saw, in order."""
    query = "SELECT n, what, grp, sequence, attempt, lease, at, until FROM witness ORDER BY n"
    with closing(sqlite3.connect(path)) as database:
        return [Turn(*row) for row in database.execute(query)]
