"""The journal's file: its tables, and how it is opened."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from bus.errors import BusError, DiskFull, ReadOnly

__all__ = ["broken", "open_database"]

VERSION = 1

_TABLES = """
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL,
    at REAL NOT NULL, raw BLOB NOT NULL);
CREATE INDEX events_by_type ON events (type, sequence, size);
CREATE TABLE types (type TEXT PRIMARY KEY, head INTEGER NOT NULL, floor INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE seen (key BLOB PRIMARY KEY, sequence INTEGER NOT NULL, at REAL NOT NULL)
    WITHOUT ROWID;
CREATE INDEX seen_by_age ON seen (at);
CREATE TABLE cursors (grp TEXT, type TEXT, position INTEGER NOT NULL, PRIMARY KEY (grp, type))
    WITHOUT ROWID;
CREATE TABLE pending (
    grp TEXT, sequence INTEGER, type TEXT NOT NULL, attempt INTEGER NOT NULL,
    failed INTEGER NOT NULL, lapsed INTEGER NOT NULL, due REAL NOT NULL, lease TEXT,
    PRIMARY KEY (grp, sequence)) WITHOUT ROWID;
CREATE UNIQUE INDEX pending_by_lease ON pending (lease) WHERE lease IS NOT NULL;
CREATE INDEX pending_leased ON pending (due) WHERE lease IS NOT NULL;
CREATE INDEX pending_waiting ON pending (grp, due) WHERE lease IS NULL;
CREATE INDEX pending_by_due ON pending (due);
CREATE INDEX pending_by_event ON pending (sequence);
CREATE TABLE finished (lease TEXT PRIMARY KEY, receipt BLOB NOT NULL, at REAL NOT NULL)
    WITHOUT ROWID;
CREATE INDEX finished_by_age ON finished (at);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, grp TEXT NOT NULL, sequence INTEGER NOT NULL,
    type TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, raw BLOB NOT NULL);
"""


def open_database(path: Path | None) -> sqlite3.Connection:
    """The journal's only connection (None: in memory); made where it is missing.

    Every commit is on the disk when it returns: WAL with `synchronous=FULL`.
    Raises `BusError` for a file that is not a journal of this version, `DiskFull`, `ReadOnly`.
    """
    if path is not None and not path.exists():
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as e:
            raise ReadOnly(f"cannot make the journal {path}: {e.strerror}") from e
    try:
        connection = sqlite3.connect(
            ":memory:" if path is None else path, isolation_level=None, cached_statements=256
        )
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as e:
        if isinstance(e, sqlite3.DatabaseError) and "not a database" in str(e):
            raise BusError(f"{path} is not a journal: {e}") from e
        raise broken(e, path) from e
    return connection


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    if path is not None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 5000")
        # Pages of the log, 16 MB, after which a commit folds it into the file: four times the
        # default, since nearly every commit writes the pages anew that ids are looked up in.
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16000")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.execute("BEGIN")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    elif version != VERSION:
        raise BusError(f"the journal {path} has version {version}, expected {VERSION}")


def broken(error: sqlite3.Error, path: Path | None) -> BusError:
    """What an SQLite error means to a client: `DiskFull`, or `ReadOnly` where writing fails."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and path is not None and _no_space(path)
    ):
        return DiskFull("the journal's disk is full: nothing was appended")
    return ReadOnly(f"the journal cannot be written: {error}")


def _no_space(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < 2**20
    except OSError:
        return False
