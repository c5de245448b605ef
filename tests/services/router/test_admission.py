"""Who is let in, and when who is not is told to come again."""

from datetime import UTC, datetime

import pytest

from services.router.admission import LATEST, REMEMBERED, SOONEST, Admission, Limits
from services.router.errors import Refused
from services.router.outstanding import Entry, Outstanding

LIMITS = Limits(texts=1000, seconds=6.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Desk:
    """Books, and who decides by them; encoders finish 100 tokens a second."""

    def __init__(self, pace: float = 100.0, limits: Limits = LIMITS) -> None:
        self.books = Outstanding()
        self.pace = pace
        self.admission = Admission(self.books, limits, lambda: self.pace)
        self.made = 0

    def hold(self, source: str, texts: int, tokens: int) -> Entry:
        """A request of this client waits."""
        self.made += 1
        entry = Entry(key=(source, str(self.made)), deadline=NOW, texts=texts, tokens=tokens)
        self.books.open(entry)
        return entry

    def refusal(
        self, source: str, texts: int = 1, tokens: int = 10, *, left: float = 60, now: float = 0
    ) -> Refused | None:
        try:
            self.admission.check(source, texts, tokens, left, now)
        except Refused as refused:
            found = refused
        else:
            return None
        assert found.code == "overloaded"
        assert found.retry_after_ms is not None
        assert 750 * SOONEST <= found.retry_after_ms <= 1250 * LATEST
        return found


def test_an_idle_router_lets_anything_in() -> None:
    assert Desk(pace=1.0).refusal("/a", texts=5000, tokens=100_000, left=0.1) is None


def test_a_request_that_would_wait_too_long_is_refused_and_another_is_not() -> None:
    desk = Desk()
    for client in range(50):
        desk.hold(f"/c/{client}", 1, 10)
    assert desk.refusal("/new") is None, "500 tokens are 5 s"
    for client in range(50, 70):
        desk.hold(f"/c/{client}", 1, 10)
    refused = desk.refusal("/new")
    assert refused is not None
    assert "7.0 s" in str(refused)


def test_a_query_is_let_in_before_a_bulk_that_waits_for_minutes() -> None:
    desk = Desk()
    desk.hold("/bulk", 400, 50_000)
    assert desk.refusal("/person") is None, "the two share equally: it waits for 10 tokens"
    assert desk.refusal("/bulk") is not None


def test_half_of_the_wait_is_for_clients_that_have_nothing_yet() -> None:
    desk = Desk()
    for client in range(40):
        desk.hold(f"/c/{client}", 1, 10)
    assert desk.refusal("/new") is None
    assert desk.refusal("/c/0") is not None, "4 s are more than the 3 that it may wait"


def test_a_wait_beyond_the_deadline_is_refused_at_once() -> None:
    desk = Desk()
    for client in range(40):
        desk.hold(f"/c/{client}", 1, 10)
    refused = desk.refusal("/new", left=2.0)
    assert refused is not None
    assert "deadline" in str(refused)
    assert desk.refusal("/new", left=5.0) is None


def test_without_a_pace_only_texts_are_bounded_and_no_client_gets_all_the_room() -> None:
    desk = Desk(pace=0.0)
    desk.hold("/greedy", 500, 500_000)
    assert desk.refusal("/greedy", texts=1) is not None, "as much is left as it has"
    assert desk.refusal("/other", texts=500) is None
    refused = desk.refusal("/other", texts=501)
    assert refused is not None
    assert "500 texts are unanswered, 1000 may be" in str(refused)


def test_what_is_answered_makes_room() -> None:
    desk = Desk(pace=0.0)
    entry = desk.hold("/a", 1000, 1000)
    assert desk.refusal("/b") is not None
    desk.books.close(entry)
    assert desk.refusal("/b") is None


def test_the_more_is_refused_the_later_one_is_to_come_again() -> None:
    desk = Desk()
    for client in range(70):
        desk.hold(f"/c/{client}", 1, 10)

    def after(number: int) -> int:
        refused = desk.refusal(f"/new/{number}", now=number / 1000)
        assert refused is not None
        return refused.retry_after_ms or 0

    few = [after(number) for number in range(8)]
    many = [after(number) for number in range(8, 5008)][-8:]
    assert 2 * max(few) < min(many), "7 s of 7.0, instead of the 1 s that it is too long"

    later = desk.refusal("/late", now=120.0)
    assert later is not None
    assert later.retry_after_ms is not None
    assert later.retry_after_ms < min(many), "it is forgotten"


def test_who_is_refused_together_does_not_come_again_together() -> None:
    desk = Desk()
    for client in range(70):
        desk.hold(f"/c/{client}", 1, 10)
    refusals = [desk.refusal(f"/new/{number}") for number in range(16)]
    times = {refused.retry_after_ms for refused in refusals if refused is not None}
    assert len(times) == 16


@pytest.mark.parametrize("clients", [1, 10, 100])
def test_a_client_that_asks_more_never_takes_the_place_of_others(clients: int) -> None:
    desk = Desk(limits=Limits(texts=10_000, seconds=6.0))
    taken = 0
    while desk.refusal("/greedy") is None and taken < 10_000:
        desk.hold("/greedy", 1, 10)
        taken += 1
    assert taken * 10 / desk.pace <= 3.1, "half of what may wait, and the first one"
    let_in = 0
    for client in range(clients):
        if desk.refusal(f"/c/{client}") is None:
            desk.hold(f"/c/{client}", 1, 10)
            let_in += 1
    assert let_in >= min(clients, 30)


def crowded(limits: Limits = LIMITS) -> Desk:
    """A request of 200 tokens would wait for 20 s, one of 10 tokens for 1 s."""
    desk = Desk(limits=limits)
    for client in range(10):
        desk.hold(f"/c/{client}", 30, 300)
    return desk


def again(desk: Desk, source: str = "/large", **given: float) -> tuple[float, Refused | None]:
    """Refused, and back when it was told to be: when that is, and what it is told then."""
    refused = desk.refusal(source, 20, 200)
    assert refused is not None
    assert refused.retry_after_ms is not None
    now = refused.retry_after_ms / 1000 + given.pop("late", 0.0)
    return now, desk.refusal(source, 20, 200, now=now, **given)


def test_who_comes_again_when_told_is_let_in_if_its_share_gets_it_done() -> None:
    assert again(crowded(), left=25.0)[1] is None
    assert again(crowded(), left=15.0)[1] is not None, "20 s are too long for it"


def test_who_comes_again_at_another_time_is_as_any_other() -> None:
    assert again(crowded(), late=-0.002)[1] is not None
    assert again(crowded(), late=LATEST + 0.1)[1] is not None
    desk = crowded()
    again(desk)
    assert desk.refusal("/other", 20, 200) is not None


def test_who_was_let_in_is_not_remembered() -> None:
    desk = crowded()
    now, refused = again(desk)
    assert refused is None
    assert desk.refusal("/large", 20, 200, now=now) is not None


def test_a_client_for_which_something_waits_is_not_let_in_by_its_patience() -> None:
    desk = crowded()
    desk.hold("/large", 1, 10)
    assert again(desk)[1] is not None


def test_patience_takes_no_more_than_half_of_the_texts_that_may_wait() -> None:
    assert again(crowded(Limits(texts=640, seconds=6.0)))[1] is None
    assert again(crowded(Limits(texts=638, seconds=6.0)))[1] is not None


def test_patience_is_of_no_use_where_those_who_ask_for_little_wait_as_well() -> None:
    desk = Desk()
    for client in range(70):
        desk.hold(f"/c/{client}", 1, 10)
    assert again(desk, left=1000.0)[1] is not None, "they wait for 7 s, and half of 6 is allowed"


def test_of_those_who_were_refused_the_last_are_remembered() -> None:
    desk = crowded()
    first = desk.refusal("/first", 20, 200)
    assert first is not None
    times = [desk.refusal(f"/then/{number}", 20, 200) for number in range(REMEMBERED)]
    assert times[-1] is not None
    assert desk.refusal("/first", 20, 200, now=(first.retry_after_ms or 0) / 1000) is not None
    now = (times[-1].retry_after_ms or 0) / 1000
    assert desk.refusal(f"/then/{REMEMBERED - 1}", 20, 200, now=now) is None
