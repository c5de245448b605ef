"""The state folder and a process's own store."""

import sqlite3
import stat
from pathlib import Path

import pytest

from services.errors import StoreDamagedError
from services.runtime.state import StateFolder
from services.runtime.store import add_columns, open_store, transaction

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY)"


def test_folders_are_their_owners_alone(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    for folder in (state.cards, state.datasets, state.keys, state.logs, state.of("factory")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s.sqlite", SCHEMA)
    with transaction(store):
        store.execute("INSERT INTO things VALUES ('kept')")

    def twice() -> None:
        with transaction(store):
            store.execute("INSERT INTO things VALUES ('lost')")
            store.execute("INSERT INTO things VALUES ('kept')")

    with pytest.raises(sqlite3.IntegrityError):
        twice()
    store.close()
    again = open_store(tmp_path / "s.sqlite", SCHEMA)
    assert [row["name"] for row in again.execute("SELECT name FROM things")] == ["kept"]
    again.close()


@pytest.mark.parametrize("damage", ["other", "cut", "torn"])
def test_a_damaged_store_is_refused_with_what_helps(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "s.sqlite"
    store = open_store(file, SCHEMA)
    with transaction(store):
        store.executemany("INSERT INTO things VALUES (?)", [(f"{n:0200}",) for n in range(200)])
    store.close()
    raw = file.read_bytes()
    torn = raw[:8192] + bytes(4096) + raw[12288:]
    file.write_bytes({"other": b"no database" * 900, "cut": raw[:8200], "torn": torn}[damage])
    with pytest.raises(StoreDamagedError, match=r"is damaged \(.*\): put that of a backup"):
        open_store(file, SCHEMA)


def test_an_older_store_gets_the_columns_it_lacks_and_keeps_its_rows(tmp_path: Path) -> None:
    store = open_store(tmp_path / "old.sqlite", "CREATE TABLE birds (name TEXT)")
    store.execute("INSERT INTO birds VALUES ('wren')")
    for _ in range(2):
        add_columns(store, "birds", {"eggs": "INTEGER NOT NULL DEFAULT 5", "name": "TEXT"})

    assert [tuple(row) for row in store.execute("SELECT * FROM birds")] == [("wren", 5)]
    store.close()
