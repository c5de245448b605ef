"""The journal's thread: it commits in groups, and nothing ends it."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest

import bus
import schemas
from bus.journal import Entry, Journal
from bus.journal.writer import Writer
from tests.bus.kit import eventually, feedback


def append(n: int) -> Any:
    event = feedback(n)
    entry = Entry(event.type, event.source, event.id, schemas.encode(event))
    return lambda journal: journal.append([entry])


async def test_what_comes_during_a_commit_shares_the_next_one() -> None:
    committed: list[Any] = []
    go = threading.Event()
    writer = Writer(lambda: Journal(None), committed.append)
    await writer.start()
    writer.submit(lambda journal: go.wait(10), lambda result: None)
    for n in range(200):
        writer.submit(append(n), lambda result: None)
    go.set()
    await eventually(lambda: sum(len(group.results) for group in committed) == 201)
    await writer.stop()
    assert len(committed) <= 2


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), MemoryError("no")])
async def test_a_commit_that_fails_in_an_unknown_way_is_told(error: Exception) -> None:
    made: list[Journal] = []

    def make() -> Journal:
        made.append(Journal(None))
        return made[0]

    results: list[Any] = []

    def take(group: Any) -> None:
        for done, result in group.results:
            done(result)

    writer = Writer(make, take)
    await writer.start()
    commit = made[0].commit

    def fail() -> None:
        made[0].commit = commit  # type: ignore[method-assign]
        raise error

    made[0].commit = fail  # type: ignore[method-assign]
    writer.submit(append(1), results.append)
    await eventually(lambda: len(results) == 1)
    writer.submit(append(2), results.append)
    await eventually(lambda: len(results) == 2)
    assert isinstance(results[0], bus.BusError)
    assert results[1] == [(1, False)]  # nothing of the failed one was left behind
    await writer.stop()
