"""A process's own SQLite store: what it must not forget, committed before it is said."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["add_columns", "open_store", "reading", "transaction"]


def open_store(path: Path, schema: str) -> sqlite3.Connection:
    """Open (and where new, create) a store; `schema` is a script of CREATE … IF NOT EXISTS.

    Every commit is on disk when it returns (WAL, synchronous=FULL).
    Raises `sqlite3.DatabaseError` where the file is no database or cannot be written.
    """
    store = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    store.row_factory = sqlite3.Row
    store.execute("PRAGMA journal_mode=WAL")
    store.execute("PRAGMA synchronous=FULL")
    store.execute("PRAGMA foreign_keys=ON")
    store.executescript(schema)
    return store


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
