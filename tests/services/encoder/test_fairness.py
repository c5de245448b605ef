"""Clients share an encoder equally, whatever each of them asks for."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from schemas import AssignedRow, EncodeAssigned, Event
from services.encoder import fairness
from services.encoder.batcher import Batcher, Job
from services.encoder.pace import Pace

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(client: str, *lengths: int, seconds: float = 60.0, reply_to: str = "somebody") -> Job:
    data = EncodeAssigned(
        request_id="r",
        texts=tuple(f"text {number}" for number in range(len(lengths))),
        role="query",
        deadline=NOW + timedelta(seconds=seconds),
        skills=(),
        rows=(AssignedRow(),) * len(lengths),
        reply_to=reply_to,
        router="router-1",
        client=client,
    )
    event = Event(data=data, source="/router/1", to="encoder-1")
    return Job(event, ((),) * len(lengths), lengths, received=0.0)


def served(batcher: Batcher, batches: int) -> Counter[str]:
    """Tokens that each client got."""
    found: Counter[str] = Counter()
    for _ in range(batches):
        for row in batcher.take(NOW).rows:
            found[row.job.client] += row.length
    return found


def test_who_asks_a_hundred_times_as_much_gets_no_more() -> None:
    batcher = Batcher(budget=100)
    for _ in range(1000):
        batcher.add(job("greedy", 10))
    for client in range(9):
        for _ in range(10):
            batcher.add(job(f"{client}", 10))
    found = served(batcher, 8)
    assert set(found) == {"greedy", *map(str, range(9))}
    assert max(found.values()) - min(found.values()) <= 10, "one request apart"


def test_shares_are_of_tokens_not_of_requests() -> None:
    batcher = Batcher(budget=200)
    for _ in range(100):
        batcher.add(job("long", 100))
        for _ in range(10):
            batcher.add(job("short", 10))
    found = served(batcher, 20)
    assert abs(found["long"] - found["short"]) <= 100


def test_a_client_that_comes_is_not_paid_for_having_been_away() -> None:
    batcher = Batcher(budget=100)
    for _ in range(200):
        batcher.add(job("here", 10))
    served(batcher, 10)
    for _ in range(200):
        batcher.add(job("new", 10))
    found = served(batcher, 10)
    assert abs(found["here"] - found["new"]) <= 20


def test_a_client_that_goes_and_comes_at_once_is_served_no_sooner_than_others() -> None:
    batcher = Batcher(budget=10)
    for client in range(20):
        for _ in range(5):
            batcher.add(job(f"{client}", 10))
    batcher.add(job("hasty", 10))
    found: Counter[str] = Counter()
    for _ in range(60):
        for row in batcher.take(NOW).rows:
            found[row.job.client] += 1
            if row.job.client == "hasty":
                batcher.add(job("hasty", 10))
    assert found["hasty"] <= 4, "three rounds, not one turn in two"


def test_a_query_of_a_client_does_not_wait_behind_its_own_bulk() -> None:
    batcher = Batcher(budget=100)
    batcher.add(job("one", *[10] * 500))
    batcher.add(job("other", *[10] * 500))
    batcher.take(NOW)
    query = job("one", 10)
    batcher.add(query)
    assert query in batcher.take(NOW).jobs


def test_who_is_not_named_is_who_is_answered() -> None:
    assert job("", 1, reply_to="client-7").client == "client-7"
    assert job("/api/1", 1, reply_to="client-7").client == "/api/1"


def test_late_requests_of_many_clients_are_dropped_and_the_others_are_served() -> None:
    batcher = Batcher(budget=1000)
    late = [job(f"{client}", 10, 10, seconds=1) for client in range(5)]
    early = [job(f"{client}", 10) for client in range(3, 8)]
    for each in late + early:
        batcher.add(each)
    batch = batcher.take(NOW + timedelta(seconds=2))
    assert set(batch.expired) == set(late)
    assert set(batch.jobs) | set(batcher.take(NOW).jobs) == set(early)
    assert len(batcher) == 0


def test_who_waits_too_long_behind_itself_is_put_off_while_others_wait() -> None:
    batcher = Batcher(budget=20, patience=6.0)
    own = [job("eager", 10, 10, 10) for _ in range(5)]
    for each in own:
        batcher.add(each)
    assert batcher.take(NOW, 7.0).stuck == (), "nobody else waits"
    fresh = job("other", 10)
    fresh.received = 6.5
    batcher.add(fresh)
    batch = batcher.take(NOW, 7.0)
    assert batch.stuck == tuple(own[1:]), "not the one that was begun, and not the new one"
    assert {*batch.jobs, *batcher.take(NOW, 7.0).jobs} == {own[0], fresh}
    assert len(batcher) == 0


def test_no_more_clients_are_remembered_than_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "FEW", 8)
    turns = fairness.Turns()
    turns.add(job("always", *[1] * 100_000))
    for client in range(5000):
        turns.add(job(f"{client}", 1))
        for _ in range(3):
            first = turns.first()
            assert first is not None
            first.pending.popleft()
            turns.charge(1)
    assert len(turns._clients) < 50


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_all_of_it_is_served_once_and_nobody_waits_for_ever(seed: int) -> None:
    random = Random(seed)
    batcher = Batcher(budget=64)
    waiting: dict[Job, int] = {}
    rows: Counter[Job] = Counter()
    made: list[Job] = []
    for step in range(600):
        if step < 400:
            for _ in range(random.randrange(3)):
                lengths: Sequence[int] = [
                    random.randint(1, 40) for _ in range(random.randint(1, 6))
                ]
                made.append(job(random.choice("aaaaaaabcd"), *lengths))
                waiting[made[-1]] = step
                batcher.add(made[-1])
        if random.random() < 0.1 and waiting:
            gone = random.choice(list(waiting))
            batcher.remove([gone])
            del waiting[gone]
        for row in batcher.take(NOW).rows:
            rows[row.job] += 1
            assert row.job in waiting, "it was removed"
            if rows[row.job] == len(row.job.lengths):
                del waiting[row.job]
    while len(batcher):
        for row in batcher.take(NOW).rows:
            rows[row.job] += 1
            if rows[row.job] == len(row.job.lengths):
                del waiting[row.job]
    assert not waiting
    assert all(count <= len(each.lengths) for each, count in rows.items())
    assert batcher.take(NOW).rows == ()


def test_the_pace_is_that_of_full_batches() -> None:
    pace = Pace(enough=256)
    assert pace.rate == 0
    pace.computed(0, 0.1)
    assert pace.rate == 0, "vectors that were known tell nothing"
    pace.computed(10, 0.01)
    assert pace.rate == 1000, "better than nothing"
    pace.computed(10, 0.1)
    assert pace.rate == 1000, "a lone query is slow for each token"
    for _ in range(100):
        pace.computed(256, 0.064)
    assert pace.rate == pytest.approx(4000, rel=0.05)
    for _ in range(100):
        pace.computed(512, 0.512)
    assert pace.rate == pytest.approx(1000, rel=0.05), "the machine has become slower"
