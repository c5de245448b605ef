"""What an encoder's heartbeat tells beyond sums, and that there is never too much of it."""

from typing import Any

import pytest

from schemas import AssignedRow, EncodeAssigned, Event, SkillRef, now
from services.encoder.batcher import Job
from services.encoder.tally import CARDS, SKILLS, Tally
from services.runtime.histogram import Buckets


def digest(number: int) -> str:
    return f"sha256:{number:064x}"[:19].ljust(71, "0")


def job(*names: str, **times: float) -> Job:
    """A request with a row for each name, and one without any skill."""
    skills = tuple(SkillRef(digest=digest(1), name=name, version=1) for name in names)
    rows = tuple(AssignedRow(skills=((place, 1.0),)) for place in range(len(names)))
    data = EncodeAssigned(
        request_id="1",
        texts=("",) * (len(names) + 1),
        role="query",
        deadline=now(),
        skills=skills,
        rows=(*rows, AssignedRow(reason="base_requested")),
        reply_to="client-1",
        router="router-1",
    )
    event: Event[Any] = Event(data=data, source="/router/1")
    made = Job(event, ((),) * len(data.texts), (1,) * len(data.texts), received=10.0)
    made.started, made.compute = 10.0 + times.get("queue", 0.0), times.get("compute", 0.0)
    return made


def test_times_and_sizes_are_told_as_histograms() -> None:
    tally = Tally()
    tally.batch(3)
    tally.answered(job("law", queue=0.03, compute=0.2))
    told = tally.counters()
    for name, total in (("queue_ms", 30.0), ("compute_ms", 200.0), ("batch_rows", 3.0)):
        found = Buckets.of(told, name)
        assert found is not None
        assert (found.total, found.summed) == (1.0, pytest.approx(total))


def test_rows_are_told_by_skill_up_to_a_number() -> None:
    tally = Tally()
    tally.answered(job("law", "law", "tax"))
    for number in range(3 * SKILLS):
        tally.answered(job(f"skill-{number}"))
    told = {name: count for name, count in tally.counters().items() if name.startswith("rows:")}
    assert (told["rows:law"], told["rows:tax"]) == (2, 1)
    assert told["rows:*"] == 3 * SKILLS - (SKILLS - 2)
    assert len(told) == SKILLS + 1


def test_cards_are_told_the_newest_first_up_to_a_number() -> None:
    tally = Tally()
    for number in range(CARDS + 10):
        tally.placed(f"sha256:{number:012x}", 1000 + number)
    tally.gone([f"sha256:{CARDS + 9:012x}", "sha256:unknown"])
    told = {name: size for name, size in tally.counters().items() if name.startswith("card:")}
    assert len(told) == CARDS
    assert f"card:{CARDS + 8:012x}" in told
    assert f"card:{CARDS + 9:012x}" not in told
    assert f"card:{0:012x}" not in told
