"""Many rows in one statement: SQLite gives up the interpreter's lock once for all of them.

Row by row the journal's thread would have to win it back from the event loop each time, which costs
more than the rows. Stretches have a power of two of rows, so that few statements are prepared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

__all__ = ["insert", "marks", "stretches"]

LONGEST = 64
"""Rows of one statement."""


def stretches(count: int) -> Iterator[tuple[int, int]]:
    """Start and length of each stretch of so many rows."""
    start = 0
    while start < count:
        length = min(LONGEST, 1 << (count - start).bit_length() - 1)
        yield start, length
        start += length


@cache
def marks(count: int) -> str:
    """`?, ?, ?`"""
    return ", ".join("?" * count)


def insert(connection: sqlite3.Connection, table: str, width: int, values: Sequence[Any]) -> None:
    """Insert rows of `width` columns, given one after another."""
    for start, length in stretches(len(values) // width):
        stretch = values[start * width : (start + length) * width]
        connection.execute(_statement(table, width, length), stretch)


@cache
def _statement(table: str, width: int, rows: int) -> str:
    return f"INSERT INTO {table} VALUES {', '.join([f'({marks(width)})'] * rows)}"  # noqa: S608 (constants)
