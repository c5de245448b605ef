"""Which rows make the next batch."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from lora.card import Adapter, BaseModel, LoRACard
from lora.store import CardStore
from schemas import AssignedRow, EncodeAssigned, Event
from services.encoder.batcher import Batcher, Job

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(
    *lengths: int,
    stack: tuple[LoRACard, ...] = (),
    seconds: float = 30.0,
) -> Job:
    data = EncodeAssigned(
        request_id="r",
        texts=tuple(f"text {number}" for number in range(len(lengths))),
        role="query",
        deadline=NOW + timedelta(seconds=seconds),
        skills=(),
        rows=(AssignedRow(),) * len(lengths),
        reply_to="client",
        router="router-1",
    )
    event = Event(data=data, source="/router/1", to="encoder-1")
    return Job(event, (stack,) * len(lengths), lengths, received=0.0)


@pytest.fixture
def cards(tmp_path: Path) -> list[LoRACard]:
    store = CardStore(tmp_path)
    made = [
        store.put(
            LoRACard(
                name=name,
                base_model=BaseModel("tiny", "a" * 64),
                dim=2,
                modules={
                    "embedding": Adapter(
                        np.ones((2, 1), np.float32), np.ones((1, 2), np.float32), 1, 1.0
                    )
                },
            )
        )
        for name in ("law", "tax")
    ]
    return sorted(made, key=lambda card: card.key)


def test_a_batch_takes_waiting_rows_up_to_the_budget_of_tokens() -> None:
    batcher = Batcher(budget=10)
    first, second = job(4, 4), job(4, 4)
    batcher.add(first)
    batcher.add(second)
    assert len(batcher) == 4

    taken = []
    while len(batcher):
        batch = batcher.take(NOW)
        assert 0 < sum(row.length for row in batch.rows) <= 10
        taken += batch.rows

    assert [row.job for row in taken] == [first, first, second, second]
    assert batcher.take(NOW).rows == ()


def test_a_batch_leaves_half_for_the_next_one_so_that_not_all_wait_for_all() -> None:
    batcher = Batcher(budget=100)
    for _ in range(16):
        batcher.add(job(10))

    sizes = []
    while len(batcher):
        sizes.append(len(batcher.take(NOW).rows))

    assert sizes == [8, 4, 2, 2]  # never below a quarter of the budget, while there is so much


def test_one_text_longer_than_the_budget_goes_alone() -> None:
    batcher = Batcher(budget=10)
    batcher.add(job(100, 5))
    assert [row.length for row in batcher.take(NOW).rows] == [100]
    assert [row.length for row in batcher.take(NOW).rows] == [5]


def test_the_first_to_come_is_the_first_to_be_served() -> None:
    batcher = Batcher(budget=10)
    jobs = [job(10), job(10), job(10)]
    for waiting in jobs:
        batcher.add(waiting)
    assert [batcher.take(NOW).jobs[0] for _ in jobs] == jobs


def test_a_query_does_not_wait_behind_a_bulk_however_long() -> None:
    batcher = Batcher(budget=100)
    bulk = [job(*[50] * 64) for _ in range(12)]
    for part in bulk:
        batcher.add(part)
    served = [batcher.take(NOW).jobs for _ in range(340)]
    assert served[0] == (bulk[0],)
    assert served[339] == (bulk[10],), "equals are served one after the other"

    query = job(10)
    batcher.add(query)
    batch = batcher.take(NOW)

    assert query in batch.jobs
    assert bulk[10] in batch.jobs, "the rest of the batch is not idle"


def test_a_bulk_is_not_held_up_for_ever_by_those_who_ask_less() -> None:
    batcher = Batcher(budget=10)
    bulk = job(*[10] * 20)
    batcher.add(bulk)

    before = 0
    while bulk.pending:
        if before % 2:
            batcher.add(job(10))  # half of what there is time for
        batcher.take(NOW)
        before += 1

    assert 20 < before <= 2 * 20 + 2, "it is done as if it had its equal share"


def test_rows_of_different_cards_meet_and_lie_by_cards_then_by_length(
    cards: list[LoRACard],
) -> None:
    batcher = Batcher(budget=1000)
    law, tax = cards
    batcher.add(job(3, 1, stack=(tax,)))
    batcher.add(job(2, stack=(law,)))
    batcher.add(job(9, 5, stack=(law, tax)))
    batcher.add(job(7))

    batch = batcher.take(NOW)

    assert [(row.cards, row.length) for row in batch.rows] == sorted(
        [
            ((), 7),
            ((law.key,), 2),
            ((law.key, tax.key), 5),
            ((law.key, tax.key), 9),
            ((tax.key,), 1),
            ((tax.key,), 3),
        ]
    )
    assert batch.mixed


def test_a_batch_of_one_set_of_cards_is_not_mixed(cards: list[LoRACard]) -> None:
    batcher = Batcher(budget=1000)
    batcher.add(job(3, stack=(cards[0],)))
    batcher.add(job(4, stack=(cards[0],)))
    batch = batcher.take(NOW)
    assert len(batch.jobs) == 2
    assert not batch.mixed


def test_a_request_past_its_deadline_is_dropped_and_named() -> None:
    batcher = Batcher(budget=1000)
    late, early = job(1, seconds=1), job(1, seconds=60)
    batcher.add(late)
    batcher.add(early)
    batch = batcher.take(NOW + timedelta(seconds=2))
    assert batch.expired == (late,)
    assert batch.jobs == (early,)


def test_a_request_is_whole_once_every_row_has_its_vector() -> None:
    one = job(3, 4)
    one.put(1, np.ones(2, np.float32), tokens=4)
    one.put(1, np.ones(2, np.float32), tokens=4)
    assert one.left == 1
    one.put(0, np.zeros(2, np.float32), tokens=3)
    assert one.left == 0
    assert one.tokens == 7


def test_a_removed_request_gives_no_more_rows() -> None:
    batcher = Batcher(budget=4)
    gone, stays = job(4, 4), job(4, 4)
    batcher.add(gone)
    batcher.add(stays)
    batcher.take(NOW)
    batcher.remove([gone])
    assert batcher.take(NOW).jobs == (stays,)
