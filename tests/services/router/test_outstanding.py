"""The router's books."""

from datetime import timedelta

from schemas import EncodeAssigned, EncodeRequested, Event, now
from services.router.outstanding import Entry, Held, Outstanding


def entry(id: str = "1", *, texts: int = 2, seconds: float = 30.0) -> Entry:
    return Entry(key=("/client", id), deadline=now() + timedelta(seconds=seconds), texts=texts)


def assignment(of: Entry) -> Event[EncodeAssigned]:
    asked = Event(
        data=EncodeRequested(texts=("a",), reply_to="client"), source=of.key[0], id=of.key[1]
    )
    data = EncodeAssigned(
        request_id=of.key[1],
        texts=("a",),
        role="query",
        deadline=of.deadline,
        skills=(),
        rows=(),
        reply_to="client",
        router="router-1",
    )
    return asked.derive(data, source="/router/1")


def test_texts_are_counted_while_they_are_owed() -> None:
    books = Outstanding()
    first, second = entry("1"), entry("2", texts=5)
    books.open(first)
    books.open(second)
    assert books.all.texts == 7
    assert books.close(first)
    assert not books.close(first), "it was closed already"
    assert books.all.texts == 5
    assert books.get(("/client", "2")) is second


def test_an_entry_is_found_by_the_id_of_its_assignment_and_by_its_worker() -> None:
    books = Outstanding()
    one = entry()
    books.open(one)
    assigned = assignment(one)
    books.assign(one, assigned)
    assert books.unplaced() == (one,)
    one.worker = "encoder-1"
    assert books.unplaced() == ()
    assert books.of_assignment(assigned.id) is one
    assert books.of_worker("encoder-1") == (one,)
    books.close(one)
    assert books.of_assignment(assigned.id) is None
    assert books.of_worker("encoder-1") == ()


def test_the_worker_that_answered_is_remembered_for_those_who_ask_again() -> None:
    books = Outstanding()
    one = entry()
    books.open(one)
    one.worker = "encoder-2"
    books.close(one)
    assert books.served_by(one.key) == "encoder-2"
    assert books.served_by(("/client", "unknown")) is None


def test_what_is_late_is_named() -> None:
    books = Outstanding()
    soon, later = entry("1", seconds=1), entry("2", seconds=60)
    books.open(soon)
    books.open(later)
    assert books.late(now()) == ()
    assert books.late(now() + timedelta(seconds=2)) == (soon,)


def test_it_is_known_what_is_owed_to_each_client_and_to_how_many() -> None:
    books = Outstanding()
    entries = [
        Entry(key=(source, id), deadline=now(), texts=texts, tokens=10 * texts)
        for source, id, texts in (("/a", "1", 2), ("/a", "2", 3), ("/b", "1", 4))
    ]
    for each in entries:
        books.open(each)
    assert (books.held("/a"), books.held("/b")) == (Held(5, 50), Held(4, 40))
    assert books.clients == 2

    for each in entries[:2]:
        books.close(each)
    assert (books.held("/a"), books.all, books.clients) == (Held(), Held(4, 40), 1)
