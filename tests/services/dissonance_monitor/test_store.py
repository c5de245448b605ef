"""The monitor's store: nothing lost, nothing doubled, batches when they are due."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas import Event, FeedbackGiven, LearningBatchQueued, LearningEvent, encode
from services.dissonance_monitor.store import (
    MAX_BATCH_BYTES,
    SCHEMA,
    Judgement,
    MonitorStore,
    cause_of,
)
from services.runtime.settings import MonitorSettings
from services.runtime.store import open_store

SETTINGS = MonitorSettings()
AGE = SETTINGS.batch_max_age


def store(path: Path | str = ":memory:") -> MonitorStore:
    return MonitorStore(open_store(Path(path), SCHEMA), "/dissonance_monitor/1", SETTINGS)


def clash(name: str, domain: str = "birds", text: str = "a passage") -> Judgement:
    given = Event(data=FeedbackGiven(query=name, relevant=(text,)), source="/c/1", id=name)
    data = LearningEvent(
        prompt=name,
        rouge_score=0.1,
        entropy_delta=0.0,
        is_breakthrough=False,
        timestamp=datetime(2024, 5, 1, tzinfo=UTC),
        reason="contradiction",
        positives=(text,),
        negatives=(),
        domain=domain,
        feedback_id=name,
    )
    event = given.derive(data, source="/dissonance_monitor/1")
    return Judgement(cause_of(given), (event,), event)


def prompts(batch: Event[LearningBatchQueued]) -> list[str]:
    return [event.prompt for event in batch.data.events]


def test_sixteen_make_a_batch_at_once_and_the_rest_wait() -> None:
    kept = store()
    kept.record([clash(f"q{n}") for n in range(18)], 0.0)

    (batch,) = kept.outbox()
    assert prompts(batch) == [f"q{n}" for n in range(16)]
    assert batch.data.domain == "birds"
    assert batch.id == batch.data.batch_id
    assert kept.waiting() == 2


def test_a_batch_names_the_clash_that_filled_it_and_lies_in_its_trace() -> None:
    kept = store()
    clashes = [clash(f"q{n}") for n in range(16)]
    last = clashes[-1].clash
    assert last is not None
    traced = msgspec.structs.replace(last, traceparent="00-the-last-one-s")
    kept.record([*clashes[:-1], Judgement(clashes[-1].cause, (traced,), traced)], 0.0)

    (batch,) = kept.outbox()
    assert (batch.causation_id, batch.traceparent) == (last.id, "00-the-last-one-s")
    assert batch.correlation_id == batch.data.batch_id


def test_domains_do_not_mix() -> None:
    kept = store()
    kept.record([clash(f"q{n}", ("birds", "bees")[n % 2]) for n in range(32)], 0.0)

    batches = kept.outbox()
    assert {batch.data.domain for batch in batches} == {"birds", "bees"}
    for batch in batches:
        assert {event.domain for event in batch.data.events} == {batch.data.domain}


@given(st.integers(1, 15))
def test_fewer_become_a_batch_by_age_if_they_are_four(count: int) -> None:
    kept = store()
    kept.record([clash("first")], 100.0)
    kept.record([clash(f"q{n}") for n in range(count - 1)], 100.0 + AGE / 2)

    kept.form(100.0 + AGE - 0.001)
    assert kept.outbox() == ()
    kept.form(100.0 + AGE)

    assert len(kept.outbox()) == (count >= 4)
    assert kept.waiting() == (0 if count >= 4 else count)


def test_the_fourth_completes_a_batch_that_is_overdue() -> None:
    kept = store()
    kept.record([clash(f"q{n}") for n in range(3)], 0.0)
    kept.form(10 * AGE)
    assert kept.outbox() == ()
    assert kept.due() is None

    kept.record([clash("q3")], 10 * AGE)

    assert len(kept.outbox()) == 1


def test_it_knows_when_the_next_batch_is_due_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "monitor.sqlite"
    first = store(file)
    first.record([clash(f"q{n}") for n in range(3)], 50.0)
    first.record([clash(f"b{n}", "bees") for n in range(4)], 70.0)

    again = store(file)

    assert again.due() == 70.0 + AGE
    assert again.waiting() == 7


def test_recording_twice_changes_nothing_and_gives_back_the_same_events() -> None:
    kept = store()
    judged = [clash(f"q{n}") for n in range(16)]
    kept.record(judged, 0.0)
    kept.record(judged, 1.0)

    assert len(kept.outbox()) == 1
    assert kept.waiting() == 0
    assert kept.known(judged[3].cause) == judged[3].events


def test_what_was_judged_is_known_until_it_is_settled() -> None:
    kept = store()
    judged = clash("q")
    assert kept.known(judged.cause) is None
    kept.record([judged], 0.0)
    assert kept.known(judged.cause) == judged.events

    kept.settle([judged.cause], [])

    assert kept.known(judged.cause) is None
    assert kept.waiting() == 1


def test_batches_wait_until_they_are_known_to_be_published() -> None:
    kept = store()
    kept.record([clash(f"q{n}") for n in range(32)], 0.0)
    first, second = kept.outbox()

    kept.settle([], [first.id])

    assert kept.outbox() == (second,)


def test_a_batch_stays_below_what_the_bus_carries() -> None:
    kept = store()
    kept.record([clash(f"q{n}", text="x" * 200_000) for n in range(16)], 0.0)

    batches = kept.outbox()

    assert max(len(encode(batch)) for batch in batches) < 1 << 20
    assert sum(len(batch.data.events) for batch in batches) + kept.waiting() == 16


def test_a_clash_that_no_batch_can_carry_is_in_none() -> None:
    kept = store()
    kept.record([clash("q", text="x" * (MAX_BATCH_BYTES + 1))], 0.0)

    assert kept.waiting() == 0
