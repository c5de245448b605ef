"""The journal itself: order, limits, what it forgets, and what a full disk does to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

import schemas
from bus.errors import BusError, DiskFull, ReadOnly, StaleLease
from bus.journal import Entry, Journal, groups
from bus.settings import BrokerSettings
from tests.bus.kit import feedback, rejected

DAY = 86_400.0


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    made = Journal(tmp_path / "j.sqlite", BrokerSettings(retention_days=7), clock=clock)
    yield made
    made.close()


def entry(n: object, size: int = 0) -> Entry:
    event = feedback(n)
    if size:
        data = schemas.FeedbackGiven(query="x" * size, relevant=("a",))
        event = schemas.Event(data=data, source="/test/1", id=f"f{n}")
    return Entry(event.type, event.source, event.id, schemas.encode(event))


def put(journal: Journal, *entries: Entry) -> list[tuple[int, bool]]:
    journal.begin()
    placed = journal.append(entries)
    journal.commit()
    journal.outbox = []
    return placed


def ids(raws: list[bytes]) -> list[str]:
    return [schemas.decode(raw).id for raw in raws]


def lease(journal: Journal, most: int = 10, seconds: float = 30.0) -> list[tuple[str, str]]:
    journal.begin()
    taken = journal.leases.lease("g", ["feedback.given"], most, seconds, "earliest")
    journal.commit()
    return [(schemas.decode(item.raw).id, item.lease) for item in taken]


def test_numbers_go_on_after_reopening(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    assert put(first, entry(1), entry(2)) == [(1, False), (2, False)]
    first.close()
    second = Journal(tmp_path / "j")
    assert put(second, entry(2), entry(3)) == [(2, True), (3, False)]
    (raw,), _ = second.read(None, 2, 10)
    assert (schemas.decode(raw).sequence, schemas.decode(raw).previous) == (3, 2)
    second.close()


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_many_events_at_once_are_as_many_one_by_one(journal: Journal, count: int) -> None:
    known = [entry(n) for n in range(0, count, 3)]
    assert put(journal, *known) == [(n + 1, False) for n in range(len(known))]
    # When: all of them come, the known ones and the last one twice.
    placed = put(journal, *(entry(n) for n in range(count)), entry(count - 1))
    # Then: each is kept once, in the order in which it came.
    fresh = [n for n in range(count) if n % 3]
    numbers = {n: n // 3 + 1 for n in range(0, count, 3)}
    numbers |= {n: len(known) + place + 1 for place, n in enumerate(fresh)}
    expected = [(numbers[n], n % 3 == 0) for n in range(count)]
    assert placed == [*expected, (numbers[count - 1], True)]
    kept, _ = journal.read(None, 0, 1000)
    assert ids(kept) == [f"f{n}" for n in (*range(0, count, 3), *fresh)]
    assert [schemas.decode(raw).previous for raw in kept] == list(range(count))
    assert journal.retention.bytes == sum(map(len, kept))


def test_unknown_attributes_are_kept(journal: Journal) -> None:
    raw = schemas.encode(feedback(1))[:-1] + b',"vendor":{"a":[1]}}'
    put(journal, Entry("feedback.given", "/test/1", "f1", raw))
    assert b'"vendor":{"a":[1]}' in (journal.event(1) or b"")


def test_what_is_rolled_back_was_never_there(journal: Journal) -> None:
    put(journal, entry(1))
    journal.begin()
    size = journal.retention.bytes
    journal.append([entry(2)])
    journal.rollback()
    assert journal.retention.bytes == size
    assert journal.heads() == {"feedback.given": 1}
    assert put(journal, entry(3)) == [(2, False)]


def test_a_full_disk_is_told_and_costs_nothing(journal: Journal) -> None:
    put(journal, entry(1))
    (pages,) = journal.connection.execute("PRAGMA page_count").fetchone()
    journal.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    journal.begin()
    with pytest.raises(sqlite3.OperationalError) as error:
        journal.append([entry(2, 100_000)])
    journal.rollback()
    assert isinstance(journal.failure(error.value), DiskFull)
    assert ids(journal.read(None, 0, 10)[0]) == ["f1"]
    journal.connection.execute("PRAGMA max_page_count = 1000000")
    assert put(journal, entry(2, 100_000)) == [(2, False)]


def test_a_journal_that_cannot_be_written_can_be_read(journal: Journal) -> None:
    put(journal, entry(1))
    journal.connection.execute("PRAGMA query_only = ON")
    journal.begin()
    with pytest.raises(sqlite3.OperationalError) as error:
        journal.append([entry(2)])
    journal.rollback()
    assert isinstance(journal.failure(error.value), ReadOnly)
    assert ids(journal.read(None, 0, 10)[0]) == ["f1"]


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"something else entirely" * 100)
    with pytest.raises(BusError, match="not a journal"):
        Journal(tmp_path / "j")


def maintain(journal: Journal) -> None:
    more = True
    while more:
        journal.begin()
        more = journal.maintain()
        journal.commit()


def test_age_takes_what_every_group_has_done(journal: Journal, clock: Clock) -> None:
    put(journal, entry(1), entry(2))
    ((_, held), *_) = lease(journal, 1)
    clock.now += 8 * DAY
    put(journal, entry(3))
    maintain(journal)
    assert ids(journal.read(None, 0, 10)[0]) == ["f1", "f2", "f3"]  # g has yet to do them
    del held
    for name, token in lease(journal):
        journal.begin()
        journal.leases.ack([token], [], name.encode())
        journal.commit()
    maintain(journal)
    page, truncated = journal.read(["feedback.given"], 0, 10)
    assert ids(page) == ["f3"]
    assert truncated
    assert not journal.read(["feedback.given"], 2, 10)[1]


def test_duplicates_are_known_a_day_beyond_retention(journal: Journal, clock: Clock) -> None:
    put(journal, entry(1))
    clock.now += 7.5 * DAY
    maintain(journal)
    assert journal.event(1) is None
    assert put(journal, entry(1)) == [(1, True)]
    clock.now += DAY
    maintain(journal)
    assert put(journal, entry(1)) == [(2, False)]


def test_the_byte_cap_always_holds_and_takes_done_ones_first(tmp_path: Path) -> None:
    limit = 2**21
    settings = BrokerSettings(retention_bytes=limit, max_event_bytes=2**20)
    journal = Journal(None, settings)
    put(journal, entry("first", 1000))
    ((_, token),) = lease(journal, 1)
    journal.begin()
    journal.leases.defer(token, journal.clock() + 1000, b"")  # waits: not done
    journal.leases.declare("other", ["training.rejected"], "earliest")
    journal.commit()
    for n in range(60):
        put(journal, entry(n, 100_000))
        assert journal.retention.bytes <= limit
        (real,) = journal.connection.execute("SELECT sum(size) FROM events").fetchone()
        assert real == journal.retention.bytes
    # Group g has done none of these, so in the end the cap takes them from it, and says so.
    assert journal.retention.evicted
    assert journal.retention.backlog() >= 0.8 * limit
    journal.close()


def test_how_far_a_group_is_behind(journal: Journal) -> None:
    put(journal, *(entry(n) for n in range(5)))
    ((_, token),) = lease(journal, 1)
    assert groups.lags(journal) == {"g": 5}, "one of them is in its hands"
    journal.begin()
    journal.leases.ack([token], [], b"")
    journal.leases.declare("other", ["training.rejected"], "earliest")
    journal.commit()
    assert groups.lags(journal) == {"g": 4, "other": 0}


def test_how_far_behind_is_counted_so_far_and_no_further(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "FAR", 3)
    put(journal, *(entry(n) for n in range(4)))
    lease(journal, 1)
    (three,) = groups.states(journal, ())
    assert (three.behind, three.more) == (4, False), "one in its hands, and three to come"
    put(journal, entry(4))
    (four,) = groups.states(journal, ())
    assert (four.behind, four.more) == (4, True)


def test_nothing_is_kept_for_a_group_that_was_dropped(tmp_path: Path, clock: Clock) -> None:
    journal = Journal(tmp_path / "j", BrokerSettings(retention_days=7), clock=clock)
    put(journal, entry(1), entry(2))
    lease(journal, 1)
    clock.now += 8 * DAY
    put(journal, entry(3))
    maintain(journal)
    assert ids(journal.read(None, 0, 10)[0]) == ["f1", "f2", "f3"]
    journal.begin()
    (dropped,) = groups.drop(journal, "g", (), force=False)
    journal.commit()
    assert (dropped.behind, dropped.since) == (3, datetime.fromtimestamp(1_000_000, UTC))
    maintain(journal)
    assert ids(journal.read(None, 0, 10)[0]) == ["f3"]
    journal.close()
    again = Journal(tmp_path / "j", clock=clock)  # it would not open books that do not add up
    assert groups.states(again, ()) == []
    again.close()


def test_the_end_of_a_lease_may_be_told_twice(journal: Journal) -> None:
    put(journal, entry(1))
    ((_, token),) = lease(journal)
    derived = rejected(1)
    raw = Entry(derived.type, derived.source, derived.id, schemas.encode(derived))
    for known in (False, True):
        journal.begin()
        assert journal.leases.ack([token], [raw], b"same bytes") == [(2, known)]
        journal.commit()
    journal.begin()
    with pytest.raises(StaleLease):
        journal.leases.ack([token], [raw], b"other bytes")
    journal.rollback()


def test_leases_outlive_a_restart(tmp_path: Path, clock: Clock) -> None:
    first = Journal(tmp_path / "j", clock=clock)
    put(first, entry(1))
    ((_, token),) = lease(first, seconds=10)
    first.close()
    clock.now += 20
    second = Journal(tmp_path / "j", clock=clock)
    second.begin()
    second.leases.ack([token], [], b"")  # nobody could have extended it meanwhile
    second.commit()
    assert lease(second) == []
    second.close()


def test_erased_bytes_leave_the_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    event = feedback("SECRETWORD", domain="law")
    put(journal, Entry(event.type, event.source, event.id, schemas.encode(event)), entry(2))
    journal.begin()
    assert journal.erase(["feedback.given"], {"domain": "law"}) == 1
    journal.commit()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"qSECRETWORD" not in held
    journal.close()


def test_nobody_else_opens_the_file_of_a_running_broker(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    put(journal, entry(1))
    with (
        closing(sqlite3.connect(tmp_path / "j", timeout=0)) as reader,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        reader.execute("SELECT count(*) FROM events").fetchall()
    journal.close()


def test_numbers_go_on_after_erasure(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j")
    event = feedback(1, domain="law")
    put(first, Entry(event.type, event.source, event.id, schemas.encode(event)))
    first.begin()
    assert first.erase(["feedback.given"], {"domain": "law"}) == 1
    first.commit()
    first.close()
    second = Journal(tmp_path / "j")
    put(second, entry(2))
    (raw,), truncated = second.read(["feedback.given"], 0, 10)
    assert (schemas.decode(raw).sequence, schemas.decode(raw).previous) == (2, 1)
    assert not truncated
    second.close()


def test_what_was_erased_under_a_lease_hides_nothing(journal: Journal) -> None:
    gone = feedback(1, domain="law")
    put(journal, Entry(gone.type, gone.source, gone.id, schemas.encode(gone)), entry(2))
    held = [token for _, token in lease(journal)]
    journal.begin()
    journal.erase(["feedback.given"], {"domain": "law"})
    for token in held:
        journal.leases.nack(token, 0.0, "", False, b"")
    journal.commit()
    assert [name for name, _ in lease(journal, 1)] == ["f2"]


def test_what_falls_due_during_other_work_is_not_forgotten(journal: Journal, clock: Clock) -> None:
    put(journal, entry(1))
    lease(journal, seconds=10)
    journal.leases.sweep()
    due = journal.leases.next_due()
    assert due == clock.now + 10
    clock.now += 11  # the group that asks next was at work meanwhile
    assert journal.leases.next_due() == due
    journal.leases.sweep()
    clock.now += 1
    assert journal.leases.next_due() is None
