"""A process's own SQLite store: what it must not forget, committed before it is said."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from services.errors import StoreDamagedError

__all__ = ["add_columns", "heed_damage", "open_store", "reading", "transaction"]

_CHECKED = 256 << 20
"""Bytes of a store up to which all of its pages are looked at when it is opened: within 0.5 s."""


def open_store(path: Path, schema: str) -> sqlite3.Connection:
    """Open (and where new, create) a store; `schema` is a script of CREATE … IF NOT EXISTS.

    Every commit is on disk when it returns (WAL, synchronous=FULL).
    Raises `StoreDamagedError` where the file is no database or a torn one, and
    `sqlite3.DatabaseError` where it cannot be written.
    """
    store = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    try:
        store.row_factory = sqlite3.Row
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=FULL")
        store.execute("PRAGMA foreign_keys=ON")
        if not path.is_file() or path.stat().st_size <= _CHECKED:  # one in memory is no file
            (line,) = store.execute("PRAGMA quick_check(1)").fetchone()
            if line != "ok":
                raise StoreDamagedError(_words(path, " ".join(line.split())))
        store.executescript(schema)
    except BaseException as error:
        store.close()
        if _is_damage(error):
            raise StoreDamagedError(_words(path, str(error))) from error
        raise
    return store


def heed_damage(error: BaseException) -> None:
    """Raise `StoreDamagedError` where a store proves damaged while it is used.

    No event is at fault, and none may become a dead letter for it: the process ends, and says at
    its next start which file it is.
    """
    if _is_damage(error):
        raise StoreDamagedError(f"a store of this process is damaged: {error}") from error


def _is_damage(error: BaseException) -> bool:
    """Whether SQLite says that a file is not what was written: no try again will help."""
    code = getattr(error, "sqlite_errorcode", 0)
    torn = code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return torn or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _words(path: Path, what: str) -> str:
    return (
        f"the store {path} is damaged ({what}): put that of a backup in its place, or move it away"
        " with the files named after it, and the process begins a new one; `sqlite3 FILE .recover`"
        " shows what can still be read"
    )


def add_columns(store: sqlite3.Connection, table: str, columns: Mapping[str, str]) -> None:
    """Add to a table of an older store what it lacks; each column with its declaration."""
    known = {row["name"] for row in store.execute(f"PRAGMA table_info({table})")}
    for name, declaration in columns.items():
        if name not in known:
            store.execute(f"ALTER TABLE {table} ADD COLUMN {name} {declaration}")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A store that is open already, once more: a thread reads by a connection of its own."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10.0)) as store:
        store.row_factory = sqlite3.Row
        store.execute("PRAGMA query_only=ON")
        yield store


@contextmanager
def transaction(store: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing: commits at the end of the block, rolls back where it raises."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield store
    except BaseException:
        store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")
