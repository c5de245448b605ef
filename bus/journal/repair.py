"""A damaged journal is written anew from what can be read of it; the damaged files stay beside it.

    journal.sqlite, -wal, -tally ──read──▶ journal.sqlite-new ──whole──▶ journal.sqlite-repaired
              │                                                                  │
              └──▶ journal.sqlite-damaged-<time>, -wal, -tally                   └──▶ journal.sqlite

Killed at any point it can be run again: what is whole is put in place, what is not is begun anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bus.errors import BusError, Damaged, InUse
from bus.journal.books import tally_path
from bus.journal.check import faults
from bus.journal.journal import Journal
from bus.journal.rewrite import Repaired, Rewriting
from bus.journal.salvage import Salvage
from bus.journal.schema import create, unfinished

__all__ = ["Repaired", "check", "repair"]

_NAME = "journal.sqlite"


@contextmanager
def _alone(state: Path) -> Iterator[Path]:
    """The journal of a state folder, while no broker runs on it; raises `InUse`, `BusError`."""
    if not state.is_dir():
        raise BusError(f"there is no state folder {state}")
    try:
        with (state / "journal.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise InUse(
                    f"a broker is running on the state folder {state}: stop the fleet first"
                ) from e
            yield state / _NAME
    except OSError as e:
        raise BusError(f"cannot use the state folder {state}: {e.strerror}") from e


def check(state: Path) -> str | None:
    """What is wrong with the journal of a state folder, as a broker finds it at its start.

    None where it is sound. Raises `InUse` while a broker runs, and `BusError` where there is no
    journal, or another program's.
    """
    with _alone(state) as path:
        if not path.exists() and not tally_path(path).exists():
            raise BusError(f"there is no journal in {state}")
        try:
            Journal(path).close()
        except Damaged as e:
            return str(e)
    return None


def repair(state: Path) -> Repaired | None:
    """Write the journal of a state folder anew from what can be read; None where it is sound.

    Takes some 20 s for a GiB, and as much room as the journal. Raises `InUse` while a broker runs,
    `BusError` where there is no journal or the disk fails.
    """
    whole = unfinished(state / _NAME)
    if not whole.exists() and check(state) is None:
        return None
    with _alone(state) as path:
        try:
            if whole.exists():  # killed halfway: what follows was done before, or is done now
                report = msgspec.json.decode(_report(path).read_bytes(), type=Repaired)
            else:
                report = _rewrite(path, whole)
            _put_in_place(path, whole, report)
        except sqlite3.Error as e:
            raise BusError(f"the journal cannot be written anew: {e}") from e
    return report


def _rewrite(path: Path, whole: Path) -> Repaired:
    new = path.with_name(f"{_NAME}-new")
    new.unlink(missing_ok=True)
    with closing(Salvage(path, path.with_name(f"{_NAME}-reading"))) as salvage:
        if salvage.other:
            raise BusError(
                f"{path} is another journal than the one that belongs here: put that one back, or"
                f" remove {tally_path(path).name} to go on with this one"
            )
        os.close(os.open(new, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = OFF")  # what is not whole is begun anew
            db.execute("PRAGMA synchronous = OFF")
            create(db)
            report = Rewriting(db, salvage).run(_aside(path).name)
            if wrong := next(faults(db, None), None):
                raise BusError(f"the journal cannot be written anew: {wrong}")
    _report(path).write_bytes(msgspec.json.encode(report))
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(whole)
    return report


def _put_in_place(path: Path, whole: Path, report: Repaired) -> None:
    aside = path.with_name(report.damaged)
    for end in ("", "-wal", "-tally"):
        old, kept = path.with_name(path.name + end), aside.with_name(aside.name + end)
        if old.exists() and not kept.exists():
            try:
                os.link(old, kept)
            except OSError:  # a file system without such links
                shutil.copy2(old, kept)
    for end in ("-wal", "-shm", "-tally"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    whole.replace(path)
    with suppress(OSError):
        _report(path).unlink()


def _aside(path: Path) -> Path:
    """A name that nothing has yet."""
    name = f"{path.name}-damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    found, n = path.with_name(name), 1
    while found.exists():
        n += 1
        found = path.with_name(f"{name}-{n}")
    return found


def _report(path: Path) -> Path:
    return path.with_name(f"{_NAME}-repaired.json")
