"""The journal's file: an older one, a newer one, a damaged one, and what a repair of it keeps."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import bus
import schemas
from bus.broker import Broker
from bus.errors import BusError, Damaged, InUse
from bus.journal import Entry, Journal
from bus.journal.repair import check, repair
from schemas import FeedbackGiven, FleetHeartbeat
from tests.bus.kit import ROOT, BrokerProcess, feedback, short_folder

VERSION_1 = """
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
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
INSERT INTO events VALUES
    (3, 'feedback.given', 160, 1000.5, '{"specversion":"1.0","id":"f3","source":"/test/1","type":"feedback.given","datacontenttype":"application/json","data":{"query":"q3","relevant":["a"]},"sequence":3,"previous":2}'),
    (4, 'feedback.given', 160, 1001.0, '{"specversion":"1.0","id":"f4","source":"/test/1","type":"feedback.given","datacontenttype":"application/json","data":{"query":"q4","relevant":["a"]},"sequence":4,"previous":3}');
UPDATE events SET raw = CAST(raw AS BLOB), size = length(raw);
INSERT INTO types VALUES ('feedback.given', 4, 2);
INSERT INTO cursors VALUES ('g', 'feedback.given', 3);
INSERT INTO dead (grp, sequence, type, reason, at, raw)
    SELECT 'h', sequence, type, 'no use', 1002.0, raw FROM events WHERE sequence = 3;
"""  # noqa: E501 (an event is a line)
"""Journals of older versions, by what made and filled them."""


def entry(n: int, size: int = 10) -> Entry:
    data = FeedbackGiven(query="x" * size, relevant=("a",))
    event = schemas.Event(data=data, source="/test/1", id=f"f{n}")
    return Entry(event.type, event.source, event.id, schemas.encode(event))


def put(journal: Journal, *entries: Entry) -> list[tuple[int, bool]]:
    journal.begin()
    placed = journal.append(entries)
    journal.commit()
    journal.outbox = []
    return placed


def lease(journal: Journal, group: str = "g") -> list[tuple[str, str]]:
    journal.begin()
    taken = journal.leases.lease(group, [FeedbackGiven.type], 100, 30.0, "earliest")
    journal.commit()
    return [(schemas.header(item.raw).id, item.lease) for item in taken]


def filled(state: Path, count: int = 200) -> Path:
    """A journal of some pages, closed in order."""
    journal = Journal(state / "journal.sqlite")
    put(journal, *(entry(n, 500) for n in range(1, count + 1)))
    ((_, first), *_) = lease(journal)
    journal.begin()
    journal.leases.ack([first], [], b"")
    journal.commit()
    journal.close()
    return state / "journal.sqlite"


def overwrite(file: Path, place: int, raw: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(raw)


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.mark.parametrize("older", [VERSION_1], ids=["version 1"])
def test_an_older_journal_is_brought_up_to_date_and_keeps_all(tmp_path: Path, older: str) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(older)
    for _ in range(2):
        journal = Journal(file)
        page, truncated = journal.read([FeedbackGiven.type], 0, 10)
        assert [schemas.decode(raw).id for raw in page] == ["f3", "f4"]
        assert truncated
        assert journal.leases.cursors() == {("g", FeedbackGiven.type): 3}
        assert [letter.reason for letter in journal.leases.dead("list", None, None)] == ["no use"]
        journal.close()
    journal = Journal(file)
    assert put(journal, entry(5)) == [(5, False)]
    assert [name for name, _ in lease(journal)] == ["f4", "f5"]
    journal.close()


def test_an_older_journal_that_is_damaged_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(VERSION_1)
    overwrite(file, 4096, bytes(4096))
    before = file.read_bytes()
    with pytest.raises(Damaged):
        Journal(file)
    assert file.read_bytes() == before


def test_a_newer_journal_is_refused_in_words(tmp_path: Path) -> None:
    file = filled(tmp_path, 3)
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(BusError, match="is of version 7, and this program knows 2 at most"):
        Journal(file)


def test_another_database_is_no_journal(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "j", isolation_level=None)) as database:
        database.execute("CREATE TABLE things (name TEXT)")
    with pytest.raises(BusError, match="is not a journal, but another database"):
        Journal(tmp_path / "j")


def test_a_damaged_journal_is_refused_in_one_sentence_and_repaired(state: Path) -> None:
    file = filled(state)
    raw = file.read_bytes()
    place = raw.index(b"x" * 400)
    overwrite(file, place, b"y")  # one byte of one event
    command = [sys.executable, "-m", "bus", "--state", str(state)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is not what was written" in done.stderr
    assert "`consonance journal repair`" in done.stderr

    report = repair(state)
    assert report is not None
    assert (report.kept, report.lost, report.positions) == (199, 1, True)
    (number,) = {a for a, b in report.missing if a == b}
    assert f"1 event is lost, numbers {number};" in report.sentence()
    assert (state / report.damaged).read_bytes()[place : place + 1] == b"y"
    process = BrokerProcess(state)
    process.start()
    with pytest.raises(InUse):
        check(state)
    process.stop()
    assert check(state) is None
    assert repair(state) is None
    journal = Journal(file)
    assert journal.event(number) is None
    assert put(journal, entry(number)) == [(number, True)]  # its id is known: nobody does it twice
    assert put(journal, entry(201)) == [(201, False)]
    assert "f1" not in [name for name, _ in lease(journal)]
    journal.close()


def test_words_that_are_no_text_any_more_are_damage(state: Path) -> None:
    """SQLite quotes the schema in its message, which Python cannot read then."""
    file = filled(state)
    place = file.read_bytes().index(b"CREATE TABLE cursors")
    overwrite(file, place + 8, b"\xc5(")
    with pytest.raises(Damaged, match="its words are damaged"):
        Journal(file)
    report = repair(state)
    assert report is not None
    assert (report.kept, report.lost) == (200, 0)


def test_a_log_whose_header_is_damaged_so_that_its_sum_agrees_loses_nothing(state: Path) -> None:
    journal = Journal(state / "journal.sqlite")
    put(journal, *(entry(n, 500) for n in range(1, 21)))
    killed = state / "killed"
    killed.mkdir()
    for end in ("", "-wal", "-tally"):  # as they lie when the broker is killed
        shutil.copy(state / f"journal.sqlite{end}", killed / f"journal.sqlite{end}")
    journal.close()
    log = killed / "journal.sqlite-wal"
    header = log.read_bytes()[:32]
    for place in (7, 19):  # the topmost bits of the version and of a salt: their sum is the same
        overwrite(log, place, bytes([header[place] ^ 0x80]))
    with pytest.raises(Damaged, match="its log states a format"):
        Journal(killed / "journal.sqlite")
    report = repair(killed)
    assert report is not None
    assert (report.kept, report.lost) == (20, 0)


def test_a_repair_that_was_killed_is_finished_by_the_next(state: Path) -> None:
    file = filled(state)
    overwrite(file, 8192, bytes(4096))
    kept = state / "kept"
    shutil.copytree(state, kept)
    report = repair(kept)
    assert report is not None
    # As if it had been killed with the new file whole, and the old one's log and tally gone.
    shutil.copy2(kept / "journal.sqlite", state / "journal.sqlite-repaired")
    (state / "journal.sqlite-repaired.json").write_bytes(msgspec.json.encode(report))
    (state / "journal.sqlite-tally").unlink()
    with pytest.raises(Damaged, match="a repair of it was not finished"):
        Journal(file)
    again = repair(state)
    assert again == report
    assert check(state) is None
    assert (state / report.damaged).exists()


def test_what_comes_after_a_lost_tail_gets_numbers_that_nobody_had(state: Path) -> None:
    journal = Journal(state / "journal.sqlite")
    put(journal, entry(1))
    before = (state / "journal.sqlite-wal").stat().st_size
    put(journal, entry(2), entry(3))
    later = state / "later"
    later.mkdir()
    for file in state.glob("journal.sqlite*"):  # as a kill leaves them
        shutil.copy2(file, later)
    journal.close()
    with (later / "journal.sqlite-wal").open("r+b") as opened:
        opened.truncate(before)
    with pytest.raises(Damaged, match="the last 1 commits that were acknowledged are not in it"):
        Journal(later / "journal.sqlite")
    report = repair(later)
    assert report is not None
    assert (report.kept, report.missing, report.last) == (1, [(2, 3)], 3)
    again = Journal(later / "journal.sqlite")
    assert put(again, entry(2)) == [(4, False)]
    assert again.read([FeedbackGiven.type], 1, 10)[1]  # who reads on is told that some are missing
    again.close()


async def test_a_full_disk_shows_until_there_is_room_and_nobody_has_to_write(state: Path) -> None:
    url = f"ipc://{state}/bus"
    settings = bus.BrokerSettings(heartbeat_seconds=0.02)
    async with (
        Broker(url, state, settings) as broker,
        await bus.connect(url, source="/a/1") as one,
        one.watch(FleetHeartbeat) as beats,
    ):

        def limit(pages: int) -> None:
            def run(journal: Journal) -> None:
                (now,) = journal.connection.execute("PRAGMA page_count").fetchone()
                journal.connection.execute(f"PRAGMA max_page_count = {now + pages}")

            broker.core.writer.submit(run, lambda result: None)

        limit(0)
        big = schemas.Event(data=FeedbackGiven(query="x" * 100_000, relevant=()), source="/a/1")
        with pytest.raises(bus.DiskFull):
            await one.publish(big)
        await one.heads()  # to read goes well, and tells nothing of writing
        beat = (await beats.get(5)).data
        while beat.state == "ready":
            beat = (await beats.get(5)).data
        assert beat.state == "degraded"
        assert "disk is full" in (beat.trouble or "")
        assert beat.counters["journal_failures"] >= 1
        limit(10_000)
        while beat.state != "ready":  # by itself
            beat = (await beats.get(5)).data
        assert beat.trouble is None
        assert await one.publish(big) == (1,)


async def test_what_was_acknowledged_before_is_not_acknowledged_again_by_a_file_that_is_gone(
    state: Path,
) -> None:
    url = f"ipc://{state}/bus"
    async with Broker(url, state), await bus.connect(url, source="/a/1") as one:
        await one.publish(feedback(1))
        (state / "journal.sqlite").unlink()
        for n in (2, 1):
            with pytest.raises(Damaged, match=r"was removed while the broker runs.*repair"):
                await one.publish(feedback(n))
        assert [event.id for event in (await one.read()).events] == ["f1"]
