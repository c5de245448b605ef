"""Forgetting through all services, with processes that are away or die in the midst of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from schemas import (
    DomainForgotten,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    LearningBatchQueued,
    LearningEvent,
    TrainingRequested,
)
from services.dissonance_monitor.service import DissonanceMonitor
from services.distiller.service import Distiller
from services.runtime.store import open_store
from tests.services.dissonance_monitor.test_service import wrong
from tests.services.factory.fakes import Stage, stage, until
from tests.services.factory.plans import Plan, settings
from tests.services.forgetting import holding, order

MINE = ("where does bird", "reeds by lake")
ORDER = ["dissonance_monitor", "distiller", "factory", "journal"]
STORES = {"dissonance_monitor", "distiller", "factory"}
TEXTS = (FeedbackGiven, FeedbackJudged, LearningEvent, LearningBatchQueued)


def later() -> Event[FeedbackGiven]:
    data = FeedbackGiven(
        query="nightjars", relevant=("heath",), irrelevant=("nightjars sold",), domain="birds"
    )
    return Event(data=data, source="/client/1", id="later")


async def words(on: Stage) -> list[str]:
    return [event.data.service for event in await on.said(DomainForgotten)]


async def told(on: Stage) -> bool:
    return len(await words(on)) == len(ORDER)


async def learned(on: Stage, plan: Plan) -> None:
    """A domain that every store has texts of."""
    async with (
        on.service(DissonanceMonitor, "dissonance_monitor"),
        on.service(Distiller, "distiller"),
        on.service(plan.factory, "factory") as factory,
    ):
        await on.bus.publish(*(wrong(number) for number in range(18)))
        await on.until(1, TrainingRequested)
        await until(lambda: factory._feedback.count_since("birds", 0.0) == 18)


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
async def test_an_order_waits_for_processes_that_are_away(tmp_path: Path, backwards: bool) -> None:
    """What was given after it starts anew, whichever process comes back first."""
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings()) as on:
        await learned(on, plan)
        assert {name.split("/")[0] for name, _ in holding(tmp_path, MINE)} == {*STORES, "datasets"}
        await on.bus.publish(order("birds"), later())
        makes = [
            (DissonanceMonitor, "dissonance_monitor"),
            (Distiller, "distiller"),
            (plan.factory, "factory"),
        ]
        async with AsyncExitStack() as stack:
            for make, name in reversed(makes) if backwards else makes:
                await stack.enter_async_context(on.service(make, name))
            await until(lambda: told(on))
            assert await words(on) == ORDER
            assert holding(tmp_path, MINE) == []
            assert [event.data.query for event in await on.said(FeedbackGiven)] == ["nightjars"]

            async def known() -> bool:
                files = {name.split("/")[0] for name, _ in holding(tmp_path, ["nightjars"])}
                return files == STORES

            await until(known)
            queries = {event.data.query for event in await on.said(FeedbackJudged)}
            assert queries == {"nightjars"}


async def test_no_kill_loses_an_order_or_does_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process dies right after its word is journaled, before it notes that or acknowledges."""
    monkeypatch.setattr("services.runtime.handful.VISIBILITY", 0.5)
    plan = Plan(tmp_path)
    plan.holds("head")
    async with stage(tmp_path, settings()) as on:
        await learned(on, plan)
        await on.bus.publish(order("birds"))
        for number, (make, name) in enumerate(
            [
                (DissonanceMonitor, "dissonance_monitor"),
                (Distiller, "distiller"),
                (plan.factory, "factory"),
            ],
            start=1,
        ):
            async with on.service(make, name):
                await on.until(number, DomainForgotten)
            file = "experience" if name == "distiller" else name.removeprefix("dissonance_")
            store = open_store(on.state.of(name) / f"{file}.sqlite", "")
            store.execute("UPDATE forgotten SET said = 0")
            store.close()
        await on.bus.publish(later())
        async with (
            on.service(plan.factory, "factory"),
            on.service(Distiller, "distiller") as distiller,
            on.service(DissonanceMonitor, "dissonance_monitor") as monitor,
        ):
            await until(lambda: told(on))
            await until(lambda: distiller.counters["feedback"] == 1)
            await until(lambda: monitor.counters["waiting"] == 1)
            assert await words(on) == ORDER
            assert holding(tmp_path, MINE) == []
            assert await on.bus.dead_letters() == ()
        assert len(await on.said(*TEXTS)) == 3
