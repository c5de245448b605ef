"""The budget: whatever dies when, a day never costs more than it may."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.distiller.cloud import answers, budget
from services.distiller.cloud.answers import Answers
from services.distiller.cloud.budget import KEPT, Budget, Cost
from services.distiller.cloud.errors import UnavailableError
from services.runtime.settings import TeacherSettings
from services.runtime.store import open_store
from tests.services.distiller.cloud.kit import MATERIAL, serving, teaching
from tests.services.distiller.cloud.test_teaching import echo, many
from tests.standin import faults

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC).timestamp()


@contextmanager
def books(path: Path | str, clock: Any = lambda: NOON, **limits: Any) -> Iterator[Budget]:
    store = open_store(Path(path), budget.SCHEMA)
    try:
        yield Budget(store, TeacherSettings(**limits), clock)
    finally:
        store.close()


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.integers(0, 400), st.sampled_from(["settle", "die"])),
        max_size=40,
    )
)
def test_no_sequence_of_requests_and_deaths_overspends(
    steps: list[tuple[int, int, str]],
) -> None:
    limits = {"tokens_per_day": 1000, "requests_per_day": 12, "money_per_day": 0.5}
    spent = Cost()
    with books(":memory:", **limits, input_price=300.0, output_price=600.0) as account:
        for sent, received, then in steps:
            try:
                reservation = account.reserve(account.cost(sent, received))
            except UnavailableError:
                continue
            true = account.cost(sent // 2, received // 2)
            if then == "settle":
                account.settle(reservation, true)
            spent += true if then == "settle" else reservation.most
            assert account.spent().tokens == spent.tokens <= 1000
            assert account.spent().requests == spent.requests <= 12
            assert account.spent().money == pytest.approx(spent.money)
            assert spent.money <= 0.5 + 1e-6


def test_a_new_process_knows_what_was_spent_and_a_new_day_is_free(tmp_path: Path) -> None:
    now = [NOON]
    for _ in range(2):
        with books(tmp_path / "b", lambda: now[0], requests_per_day=2) as account:
            account.reserve(Cost(1))
    with books(tmp_path / "b", lambda: now[0], requests_per_day=2) as account:
        with pytest.raises(UnavailableError, match=r"teacher\.requests_per_day = 2"):
            account.reserve(Cost(1))
        now[0] = MIDNIGHT
        account.reserve(Cost(1))
        for day in range(2 * KEPT):
            now[0] = MIDNIGHT + 86_400 * day
            account.reserve(Cost(1))
        (count,) = account._store.execute("SELECT COUNT(*) FROM days").fetchone()
        assert count == KEPT


def test_a_request_settles_on_the_day_on_which_it_began() -> None:
    now = [NOON]
    with books(":memory:", lambda: now[0]) as account:
        reservation = account.reserve(Cost(1, 900))
        now[0] = MIDNIGHT
        account.settle(reservation, Cost(1, 10))
        assert account.spent("2026-03-01") == Cost(1, 10)
        assert account.spent() == Cost()


def test_what_costs_nothing_is_never_too_dear(tmp_path: Path) -> None:
    """A batch that is paid for is collected though the limit was lowered meanwhile."""
    with books(tmp_path / "b", requests_per_day=5) as account:
        account.reserve(Cost(5))
    with books(tmp_path / "b", requests_per_day=1) as account:
        account.reserve(Cost())


def test_what_never_fits_is_not_waited_for() -> None:
    with (
        books(":memory:", tokens_per_day=100) as account,
        pytest.raises(UnavailableError, match="one request may need 101") as refused,
    ):
        account.reserve(Cost(1, 101))
    assert refused.value.again is None


async def test_a_spent_budget_ends_the_order_until_midnight(tmp_path: Path) -> None:
    with serving(echo) as server:
        async with teaching(
            server, tmp_path, requests_per_day=2, concurrency=1, clock=lambda: NOON
        ) as teacher:
            found = await teacher.teach(many(40))

    assert "the budget of the day is spent: 2 of teacher.requests_per_day = 2" in (
        found.reason or ""
    )
    assert found.again == MIDNIGHT
    assert len(found.pairs) == 48
    assert server.counts["/v1/chat/completions"] == 2


async def test_attempts_that_failed_count_and_cost_no_tokens(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.always = faults.status(500)
        async with teaching(server, tmp_path) as teacher:
            await teacher.teach(many(1))
            assert teacher.budget.spent() == Cost(requests=3)


async def test_what_a_killed_request_cost_is_unknown_and_counted_as_the_most(
    tmp_path: Path,
) -> None:
    with serving() as server:
        server.always = faults.hang
        async with teaching(server, tmp_path, concurrency=1) as teacher:
            task = asyncio.create_task(teacher.teach(MATERIAL))
            async with asyncio.timeout(20):
                while not server.counts["/v1/chat/completions"]:
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with teaching(server, tmp_path) as teacher:
            spent = teacher.budget.spent()

    assert spent.requests == 1
    assert spent.tokens > 4096


async def test_money_is_counted_at_the_prices(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script(faults.content('{"items": [{"id": 0, "texts": ["a"]}]}'))
        async with teaching(server, tmp_path, input_price=2.0, output_price=8.0) as teacher:
            await teacher.teach(many(1))
            assert teacher.budget.spent().money == pytest.approx((100 * 2 + 10 * 8) / 1e6)


def test_kept_answers_are_bounded_in_bytes_and_age() -> None:
    now = [NOON]
    store = open_store(Path(":memory:"), answers.SCHEMA)
    kept = Answers(store, lambda: now[0], max_bytes=1000)
    for number in range(20):
        kept.put(bytes([number]), b"x" * 100, "birds")
    assert [kept.get(bytes([number])) is not None for number in range(20)] == (
        [False] * 10 + [True] * 10
    )
    now[0] += answers.MAX_AGE + 1
    kept.put(b"new", b"y", "birds")
    (count,) = store.execute("SELECT COUNT(*) FROM answers").fetchone()
    store.close()
    assert count == 1
