"""The monitor forgets a domain, and erases it from the journal when all others have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bus import RequestTimeout
from schemas import (
    DomainForgotten,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    GenerationObserved,
    LearningBatchQueued,
    LearningEvent,
)
from services.dissonance_monitor.service import DissonanceMonitor
from services.runtime import forgetting
from services.runtime.settings import MonitorSettings, Settings
from tests.services.dissonance_monitor.test_service import NAME, wrong
from tests.services.factory.fakes import Stage, stage, until
from tests.services.forgetting import holding, order, word

KINDS = (FeedbackGiven, GenerationObserved, FeedbackJudged, LearningEvent, LearningBatchQueued)


def bees(number: int) -> Event[FeedbackGiven]:
    data = FeedbackGiven(
        query=f"honey of hive {number}",
        relevant=(f"clover meadow {number}",),
        irrelevant=(f"honey of hive {number} sold",),
        domain="bees",
        served=(),
    )
    return Event(data=data, source="/client/1", id=f"b{number}")


def nameless(name: str, query: str, relevant: str = "form") -> Event[FeedbackGiven]:
    data = FeedbackGiven(query=query, relevant=(relevant,), served=())
    return Event(data=data, source="/client/1", id=name)


async def ids(on: Stage, *kinds: Any) -> set[str]:
    """The feedback that journaled events of some kinds are of."""
    found = set()
    for event in await on.said(*kinds):
        found.add(getattr(event.data, "feedback_id", event.id))
    return found


async def forgotten(on: Stage, service: str, number: int = 1) -> DomainForgotten:
    async def said() -> list[DomainForgotten]:
        words = [event.data for event in await on.said(DomainForgotten)]
        return [data for data in words if data.service == service]

    async def enough() -> bool:
        return len(await said()) >= number

    await until(enough)
    return (await said())[number - 1]


async def test_nothing_of_a_forgotten_domain_is_left_in_the_store_nor_in_its_log(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME) as monitor:
        await on.bus.publish(*(wrong(number) for number in range(20)))
        await on.bus.publish(*(bees(number) for number in range(3)))
        await on.until(23, FeedbackJudged)
        await until(lambda: monitor.counters["waiting"] == 7)
        mine = ["where does bird", "reeds by lake"]
        folder = on.state.of(NAME)
        assert {text for _, text in holding(folder, mine)} == set(mine)

        await on.bus.publish(order("birds"))
        said = await forgotten(on, NAME)
        assert holding(folder, mine) == []
        assert {text for _, text in holding(folder, ["honey of", "clover meadow"])}
        await until(lambda: monitor.counters["waiting"] == 3)
        assert "open:birds" not in monitor.counters

    assert said.domain == "birds"
    assert said.erased > 4


async def test_the_journal_is_erased_when_the_last_service_has_forgotten(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        seen = GenerationObserved(
            prompt="what sings",
            output="a crow",
            reference="the thrush",
            entropy_before=0.5,
            entropy_after=0.5,
            domain="birds",
        )
        await on.bus.publish(*(wrong(number) for number in range(20)), bees(1))
        await on.bus.publish(Event(data=seen, source="/client/1", id="g1"))
        await on.until(22, FeedbackJudged)
        await on.bus.publish(order("birds"))
        await forgotten(on, NAME)
        before = len(await on.said(*KINDS))
        assert before > 60, "the others may still need it"

        await on.bus.publish(word("birds", "factory"))
        done = await forgotten(on, "journal")
        assert await ids(on, FeedbackGiven, FeedbackJudged, LearningEvent) == {"b1"}
        assert await on.said(GenerationObserved, LearningBatchQueued) == []

    assert (done.erased, done.kept) == (before - 3, 0)


async def test_what_is_given_after_the_order_starts_anew(tmp_path: Path) -> None:
    """Whether it comes before the journal is erased or after; a second order takes it, too."""
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME) as monitor:
        await on.bus.publish(*(wrong(number) for number in range(3)))
        await on.until(3, FeedbackJudged)
        await on.bus.publish(order("birds"), wrong(7))
        await on.until(4, FeedbackJudged)
        await on.bus.publish(word("birds", "factory"))
        await forgotten(on, "journal")
        await on.bus.publish(wrong(8))
        await on.until(2, FeedbackJudged)
        await until(lambda: monitor.counters["waiting"] == 2)
        assert await ids(on, FeedbackGiven) == await ids(on, LearningEvent) == {"w7", "w8"}

        await on.bus.publish(order("birds", "second"))
        await forgotten(on, NAME, 2)
        await on.bus.publish(word("birds", "factory", "again"))
        await forgotten(on, "journal", 2)
        assert await on.said(*KINDS) == []


@pytest.mark.parametrize("domain", ["birds", None], ids=["named", "nameless"])
async def test_feedback_that_was_given_before_and_could_not_be_judged_in_time_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domain: str | None
) -> None:
    monkeypatch.setattr("services.runtime.handful.PATIENCE", 0.05)
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        on.fleet.failing = "internal"
        await on.bus.publish(wrong(1, domain))
        await until(lambda: on.fleet.asked)
        forget = domain or "general"
        await on.bus.publish(order(forget))
        await forgotten(on, NAME)
        await on.bus.publish(word(forget, "factory"))
        await forgotten(on, "journal")
        on.fleet.failing = None
        await on.bus.publish(bees(1))
        await on.until(1, FeedbackJudged)

        async def gone() -> bool:
            return await ids(on, FeedbackGiven, FeedbackJudged, LearningEvent) == {"b1"}

        await until(gone)
        assert await on.bus.dead_letters() == ()


async def test_feedback_without_a_domain_goes_by_its_query_unless_others_have_the_same(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        await on.bus.publish(nameless("n1", "tax return"), nameless("n2", "honey of hive 1"))
        await on.bus.publish(bees(1))
        await on.until(3, FeedbackJudged)
        await on.bus.publish(order("general"), word("general", "factory"))
        done = await forgotten(on, "journal")
        assert await ids(on, FeedbackGiven) == {"n2", "b1"}
        assert await ids(on, FeedbackJudged) == {"b1"}

    assert done.kept == 1


async def test_another_clients_feedback_of_the_same_id_stays(tmp_path: Path) -> None:
    """An id is unique within its source alone."""
    async with stage(tmp_path) as on, on.service(DissonanceMonitor, NAME):
        other = FeedbackGiven(query="honey", relevant=("clover",), domain=None, served=())
        mine = FeedbackGiven(query="tax", relevant=("form",), domain="office", served=())
        await on.bus.publish(
            Event(data=mine, source="/client/1", id="1"),
            Event(data=other, source="/client/2", id="1"),
        )
        await on.until(2, FeedbackJudged)
        await on.bus.publish(order("office"), word("office", "factory"))
        await forgotten(on, "journal")
        assert [one.source for one in await on.said(FeedbackGiven)] == ["/client/2"]


async def test_while_the_fleet_cannot_answer_nothing_behind_the_order_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be erased with what came before, once the order is carried out."""
    tried: list[str] = []

    class Hindered(DissonanceMonitor):
        @asynccontextmanager
        async def _quiet(self, domain: str) -> AsyncIterator[None]:
            tried.append(domain)
            if len(tried) < 3:
                raise RequestTimeout("the broker is busy")
            async with super()._quiet(domain):
                yield

    monkeypatch.setattr("services.runtime.handful.PATIENCE", 0.2)
    async with stage(tmp_path) as on, on.service(Hindered, NAME) as monitor:
        await on.bus.publish(*(wrong(number) for number in range(3)))
        await on.until(3, FeedbackJudged)
        await on.bus.publish(order("birds"))
        await until(lambda: tried)
        await on.bus.publish(wrong(7))
        await on.until(4, FeedbackJudged)
        await until(lambda: monitor.counters["waiting"] == 1)
        await on.bus.publish(word("birds", "factory"))
        await forgotten(on, "journal")
        assert await ids(on, FeedbackGiven) == await ids(on, LearningEvent) == {"w7"}


async def test_a_process_that_is_killed_midway_forgets_when_it_is_back_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows were deleted, the file was not written anew; feedback came meanwhile."""
    real, tried = forgetting.scrub, []

    def dies(store: Any) -> None:
        tried.append(store)
        raise RuntimeError("killed")

    async with stage(tmp_path) as on:
        async with on.service(DissonanceMonitor, NAME):
            await on.bus.publish(*(wrong(number) for number in range(3)))
            await on.until(3, FeedbackJudged)
            monkeypatch.setattr(forgetting, "scrub", dies)
            await on.bus.publish(order("birds"))
            await until(lambda: tried)
        monkeypatch.setattr(forgetting, "scrub", real)
        await on.bus.publish(wrong(9))
        async with on.service(DissonanceMonitor, NAME) as monitor:
            await on.until(4, FeedbackJudged)
            said = await forgotten(on, NAME)
            assert holding(on.state.of(NAME), ["bird 0", "bird 1", "bird 2"]) == []
            await until(lambda: monitor.counters["waiting"] == 1)
        words = [event for event in await on.said(DomainForgotten, FeedbackJudged)]
        kinds = [event.type for event in words]
        assert kinds == ["feedback.judged"] * 3 + ["domain.forgotten", "feedback.judged"]
    assert said.erased > 0


async def test_a_batch_that_is_being_said_is_said_before_the_domain_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the journal behind the word would be taken for later feedback."""
    settings = Settings(monitor=MonitorSettings(batch_max_age=0.05))
    async with stage(tmp_path, settings) as on, on.service(DissonanceMonitor, NAME) as monitor:
        begun, go = asyncio.Event(), asyncio.Event()
        real = monitor.publish_outbox

        async def slow(waiting: Any) -> bool:
            begun.set()
            await go.wait()
            return bool(await real(waiting))

        monkeypatch.setattr(monitor, "publish_outbox", slow)
        await on.bus.publish(*(wrong(number) for number in range(4)))
        await begun.wait()
        await on.bus.publish(order("birds"))
        await asyncio.sleep(0.2)  # ample for a word that would not wait
        go.set()
        await forgotten(on, NAME)
        kinds = [event.type for event in await on.said(LearningBatchQueued, DomainForgotten)]
    assert kinds == ["learning.batch_queued", "domain.forgotten"]
