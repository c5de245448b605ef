"""When bodies are due: bounded waits, and what is handed on from task to task and run to run."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.factory import tasks
from services.factory.lanes import LONGEST, PATIENCE, Lanes
from services.factory.schedule import body_due
from services.factory.tasks import Owed, Phase, TaskStore
from services.runtime.cron import next_time
from services.runtime.settings import FactorySettings
from services.runtime.store import open_store, transaction
from tests.services.factory.plans import task

DAY = 24 * 3600.0


def store(folder: Path, wanted: FactorySettings) -> TaskStore:
    def due(since: float, arrived: float) -> float | None:
        found = body_due(wanted, since, arrived)
        return None if found is None else found.first

    return TaskStore(open_store(folder / "f.sqlite", tasks.SCHEMA), "/factory/1", due)


def end(ledger: TaskStore, owed: Owed) -> None:
    with transaction(ledger._store):
        ledger.end(owed, [], judged=True)


def learn(ledger: TaskStore, name: str, now: float, skill: str = "birds") -> None:
    """A task comes, and its head is trained at once."""
    ledger.admit(task(name, skill=skill), now, [])
    (head,) = [owed for owed in ledger.owed(skill) if owed.phase == "head"]
    end(ledger, head)


def bodies(ledger: TaskStore) -> list[tuple[str, float]]:
    return [(it.task.task_id, it.due) for it in ledger.owed() if it.phase == "body"]


@settings(max_examples=25)
@given(st.lists(st.floats(0, 5000.0), min_size=1, max_size=8))
def test_however_feedback_comes_a_body_never_waits_longer_than_the_limit(
    pauses: list[float],
) -> None:
    chosen = FactorySettings(quiet_period=300.0, quiet_limit=3600.0)
    with TemporaryDirectory() as folder:
        ledger = store(Path(folder), chosen)
        now = first = 1e9
        for number, pause in enumerate(pauses):
            if now - first >= 3600.0:
                break  # its turn has come
            learn(ledger, f"t{number}", now)
            ((_, due),) = bodies(ledger)
            assert due == min(now + 300.0, first + 3600.0)
            now += pause
        ledger._store.close()


def test_newer_tasks_take_over_the_night_of_the_older_ones(tmp_path: Path) -> None:
    wanted = FactorySettings(body_schedule="cron", cron="0 3 * * *", time_zone="UTC")
    ledger = store(tmp_path, wanted)
    learn(ledger, "t1", DAY + 10 * 3600)
    learn(ledger, "t2", DAY + 20 * 3600)
    learn(ledger, "bees", DAY + 21 * 3600, skill="bees")

    assert sorted(bodies(ledger)) == [("bees", 2 * DAY + 3 * 3600), ("t2", 2 * DAY + 3 * 3600)]
    # One that came in the night, before the body of the last day was trained, delays it no more.
    learn(ledger, "t3", 2 * DAY + 4 * 3600)
    assert ("t3", 2 * DAY + 3 * 3600) in bodies(ledger)


def test_after_its_body_a_skill_waits_for_the_next_night(tmp_path: Path) -> None:
    wanted = FactorySettings(body_schedule="cron", cron="0 3 * * *", time_zone="UTC")
    ledger = store(tmp_path, wanted)
    learn(ledger, "t1", DAY)
    (body,) = ledger.owed()
    ledger.admit(task("t2"), DAY + 3 * 3600 + 60, [(body.number, "body")])
    end(ledger, body)
    (head,) = ledger.owed()
    end(ledger, head)

    assert bodies(ledger) == [("t2", 2 * DAY + 3 * 3600)]


def test_a_night_that_was_missed_is_made_up_for(tmp_path: Path) -> None:
    wanted = FactorySettings(body_schedule="cron", cron="0 3 * * *", time_zone="UTC")
    ledger = store(tmp_path, wanted)
    ledger.admit(task("t1"), DAY, [])  # and the fleet went down before its head was trained
    ledger._store.close()
    later = store(tmp_path, wanted)
    later.reschedule()
    (head,) = later.owed()
    end(later, head)

    assert bodies(later) == [("t1", DAY + 3 * 3600)]
    (body,) = later.owed()
    assert Lanes(later, wanted).next("body", 9 * DAY).owed == body


def test_what_is_owed_follows_the_settings_of_today(tmp_path: Path) -> None:
    ledger = store(tmp_path, FactorySettings(quiet_period=300.0))
    learn(ledger, "t1", DAY)
    ledger._store.close()
    at_once = store(tmp_path, FactorySettings(body_schedule="at_once"))
    at_once.reschedule()
    assert bodies(at_once) == [("t1", DAY)]
    at_once._store.close()
    off = store(tmp_path, FactorySettings(body_schedule="off"))
    off.reschedule()

    assert off.owed() == []


def test_outdated_candidates_count_as_attempts(tmp_path: Path) -> None:
    ledger = store(tmp_path, FactorySettings())
    learn(ledger, "t1", DAY)
    (body,) = ledger.owed()
    ledger.postpone(body, DAY, judged=True)
    ledger.supersede(body, judged=True)

    assert ledger.attempts("birds") == 3


def test_a_publication_starts_the_count_of_attempts_anew(tmp_path: Path) -> None:
    ledger = store(tmp_path, FactorySettings())
    learn(ledger, "t1", DAY)
    (body,) = ledger.owed()
    assert ledger.attempts("birds") == 1

    with transaction(ledger._store):
        ledger.end(body, [], judged=True, published=True)

    assert ledger.attempts("birds") == 0


@pytest.fixture
def lanes(tmp_path: Path) -> Callable[[FactorySettings], tuple[TaskStore, Lanes]]:
    def make(wanted: FactorySettings) -> tuple[TaskStore, Lanes]:
        ledger = store(tmp_path, wanted)
        return ledger, Lanes(ledger, wanted)

    return make


def name(lanes: Lanes, phase: Phase, now: float) -> str | None:
    owed = lanes.next(phase, now).owed
    return None if owed is None else owed.task.task_id


def test_a_body_whose_turn_it_is_starts_beside_the_heads_of_others(
    lanes: Callable[[FactorySettings], tuple[TaskStore, Lanes]],
) -> None:
    ledger, turn = lanes(FactorySettings(quiet_period=300.0, quiet_limit=3600.0))
    learn(ledger, "t1", DAY)
    ledger.admit(task("bees", skill="bees"), DAY + 400, [])

    assert name(turn, "body", DAY + 400) is None
    assert name(turn, "body", DAY + 3600) == "t1"
    assert name(turn, "head", DAY + 3600) == "bees"


def test_heads_wait_for_a_body_whose_turn_it_is_and_not_for_ever(
    lanes: Callable[[FactorySettings], tuple[TaskStore, Lanes]],
) -> None:
    """As it is after a restart: the older task's body was in training, a newer task came."""
    wanted = FactorySettings(body_schedule="cron", time_zone="UTC", body_time_budget=100.0)
    ledger, turn = lanes(wanted)
    learn(ledger, "t1", DAY)
    (body,) = ledger.owed()
    night = next_time(wanted.cron, "UTC", DAY)
    ledger.admit(task("t2"), night + 10, [(body.number, "body")])
    ledger.admit(task("bees", skill="bees"), night + 20, [])

    assert name(turn, "body", night + 20) == "t1"
    assert name(turn, "head", night + 20) == "bees"
    ledger.supersede(next(it for it in ledger.owed() if it.task.task_id == "bees"))
    waits = turn.next("head", night + 20)
    assert waits.owed is None
    assert waits.look == night + 20 + PATIENCE * 100.0


def test_before_its_turn_a_body_keeps_no_head_waiting(
    lanes: Callable[[FactorySettings], tuple[TaskStore, Lanes]],
) -> None:
    ledger, turn = lanes(FactorySettings(quiet_period=300.0, quiet_limit=3600.0))
    learn(ledger, "t1", DAY)
    (body,) = ledger.owed()
    ledger.admit(task("t2"), DAY + 400, [(body.number, "body")])

    assert name(turn, "head", DAY + 400) == "t2"
    assert name(turn, "body", DAY + 400) is None


async def test_where_a_body_was_outrun_heads_wait_longer_for_the_next_one(
    lanes: Callable[[FactorySettings], tuple[TaskStore, Lanes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no body would ever be judged where all take longer than planned."""
    clock = SimpleNamespace(now=DAY)
    moment = SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now)
    monkeypatch.setattr("services.factory.lanes.time", moment)
    ledger, turn = lanes(FactorySettings(body_schedule="at_once", body_time_budget=100.0))

    async def trained(name: str, takes: float) -> float:
        """A body's turn comes, and at once a newer task; how long that one's head waits."""
        learn(ledger, name, clock.now)
        body = next(owed for owed in ledger.owed() if owed.phase == "body")
        done = asyncio.Event()

        async def train() -> None:
            await done.wait()
            turn.leave(body)

        work = asyncio.create_task(train())
        turn.enter(body, work)
        ledger.admit(task(f"{name}-newer"), clock.now, turn.running)
        look = turn.next("head", clock.now).look
        assert look is not None
        waits, clock.now = look - clock.now, clock.now + takes
        head = next(owed for owed in ledger.owed() if owed.phase == "head")
        if takes < waits:
            end(ledger, body)
            done.set()
            end(ledger, head)
        else:
            end(ledger, head)
            turn.outdate(head)
        await asyncio.gather(work, return_exceptions=True)
        return waits

    waited = [await trained(f"t{n}", takes) for n, takes in enumerate((250.0, 250.0, 150.0, 150.0))]

    assert waited == [it * 100.0 for it in (PATIENCE, LONGEST, LONGEST, PATIENCE)]
