"""The journal's file: its tables, how it is opened, and how an older one is brought up to date."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bus.errors import BusError, Damaged, DiskFull, ReadOnly
from bus.journal.books import tally_path, tied
from bus.journal.pages import LOG_VERSION

__all__ = [
    "UNREADABLE",
    "VERSION",
    "broken",
    "create",
    "no_space",
    "open_database",
    "template",
    "unfinished",
]

VERSION = 2
APPLICATION = 0x434A4E4C
"""`CJNL`: what tells a journal from other databases."""

_TABLES = """
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL,
    at REAL NOT NULL, raw BLOB NOT NULL, crc INTEGER);
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
    type TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, raw BLOB NOT NULL, crc INTEGER);
"""

_BOOKS = """
CREATE TABLE books (
    name BLOB NOT NULL, commits INTEGER NOT NULL, last INTEGER NOT NULL, events INTEGER NOT NULL,
    dead INTEGER NOT NULL, tied INTEGER NOT NULL, unsummed INTEGER NOT NULL);
"""

_TO_VERSION = {
    2: "ALTER TABLE events ADD COLUMN crc INTEGER; ALTER TABLE dead ADD COLUMN crc INTEGER;"
    + _BOOKS
}
"""What brings a journal of the version before to this one."""


UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises: the second where SQLite's message quotes what is no text."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """The journal's only connection (None: in memory); made where it is missing.

    Every commit is on the disk when it returns: WAL with `synchronous=FULL`. Nobody else can open
    the file meanwhile, so the log's index needs no file of its own that others could cut short.
    Raises `BusError` for a file that is not a journal, or a newer version's, `Damaged`,
    `DiskFull`, `ReadOnly`.
    """
    if path is not None:
        _find(path)
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
        if path is not None and _is_other(e) and not tally_path(path).exists():
            raise BusError(f"{path} is not a journal: {e}") from e
        if path is not None and _is_strange(e, path):
            raise Damaged("its log states a format that SQLite does not know") from e
        raise broken(e, path) from e
    except UnicodeDecodeError as e:
        raise Damaged("its words are damaged") from e
    return connection


def _is_other(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB


def _is_strange(error: sqlite3.Error, path: Path) -> bool:
    """Whether the log's header is damaged where its sum does not show it: sums are not proof."""
    if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_CANTOPEN:
        return False
    try:
        with path.with_name(path.name + "-wal").open("rb") as log:
            stated = log.read(8)[4:]
    except OSError:
        return False
    return len(stated) == 4 and int.from_bytes(stated, "big") != LOG_VERSION


def _find(path: Path) -> None:
    """Make the file where there never was one; raises `Damaged` where one is gone."""
    if unfinished(path).exists():
        raise Damaged("a repair of it was not finished")
    try:
        there = path.exists() and path.stat().st_size > 0
        log = path.with_name(path.name + "-wal")
        logged = log.exists() and log.stat().st_size > 0
        if not there and (logged or tally_path(path).exists()):
            # SQLite would begin a new one, and throw the log of the old one away.
            what = "is empty" if path.exists() else "is gone"
            raise Damaged(f"its file {what}, though events were journaled")
        if not there:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as e:
        raise ReadOnly(f"cannot make the journal {path}: {e.strerror}") from e


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    if path is not None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA page_size = 4096")  # where it is new
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Pages of the log, 16 MB, after which a commit folds it into the file: four times the
        # default, since nearly every commit writes the pages anew that ids are looked up in.
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute("PRAGMA cell_size_check = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version > VERSION:
        raise BusError(
            f"the journal {path} is of version {version}, and this program knows {VERSION} at"
            " most: start it with the newer program that wrote it"
        )
    if version == 0:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise BusError(f"{path} is not a journal, but another database")
        if path is not None and tally_path(path).exists():
            raise Damaged("its file is empty, though events were journaled")
        create(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # a lost log is not all
        return
    ((line,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if line != "ok":
        raise Damaged(line)
    _migrate(connection, version)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty journal."""
    connection.execute("BEGIN")
    for statement in (_TABLES + _BOOKS).split(";"):
        connection.execute(statement)
    connection.execute("INSERT INTO books VALUES (?, 0, 0, 0, 0, 0, 0)", (os.urandom(16),))
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def unfinished(path: Path) -> Path:
    """What a repair leaves that was killed before the new file was in its place."""
    return path.with_name(path.name + "-repaired")


def template() -> Iterator[bytes]:
    """First pages that a journal may have had: they say where its tables begin."""
    for tables, version in ((_TABLES + _BOOKS, 2), (_TABLES.replace(", crc INTEGER", ""), 1)):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.execute("PRAGMA page_size = 4096")
            db.executescript(f"{tables}; PRAGMA user_version = {version}")
            yield db.serialize()[:4096]


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """All of it or nothing, in one transaction."""
    connection.execute("BEGIN")
    try:
        for number in range(version + 1, VERSION + 1):
            for statement in _TO_VERSION[number].split(";"):
                connection.execute(statement)
        heads = connection.execute("SELECT type, head, floor FROM types").fetchall()
        positions = connection.execute("SELECT grp, type, position FROM cursors").fetchall()
        last = max((head for _, head, _ in heads), default=0)
        (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
        check = 0
        for row in (*heads, *positions):
            check ^= tied(*row)
        connection.execute(
            "INSERT INTO books VALUES (?, 0, ?, ?, (SELECT count(*) FROM dead), ?, ?)",
            (os.urandom(16), last, events, check, last),
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


_TORN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SHORT_READ = sqlite3.SQLITE_IOERR_SHORT_READ
_UNDECODED = "Could not decode to UTF-8"
"""How Python says that a row's text is damaged: an error without a code of SQLite's."""


def broken(error: sqlite3.Error, path: Path | None) -> BusError:
    """What an SQLite error means to a client: `Damaged`, `DiskFull`, or `ReadOnly` for the rest."""
    whole = getattr(error, "sqlite_errorcode", 0)
    code = whole & 0xFF
    if code in _TORN or whole == _SHORT_READ or _UNDECODED in str(error):
        return Damaged(str(error))
    if code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and path is not None and no_space(path)
    ):
        return DiskFull(
            "the journal's disk is full: nothing was appended; once there is room it goes on by"
            " itself"
        )
    return ReadOnly(
        f"the journal cannot be written ({error}): nothing was changed; once that is mended it"
        " goes on by itself"
    )


def no_space(path: Path) -> bool:
    """Whether the disk has less than 1 MiB left."""
    try:
        return shutil.disk_usage(path.parent).free < 2**20
    except OSError:
        return False
