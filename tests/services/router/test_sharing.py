"""Several routers: each request is one router's, and who is gone leaves its share to the others."""

import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from schemas import EncodeAssigned, EncodeCompleted, EncodeFailed
from services.router.admission import Admission, Limits
from services.router.errors import Refused
from services.router.outstanding import Entry, Outstanding
from services.router.placement import Work
from services.router.service import RouterService
from tests.services.encoder.processes import skill, until
from tests.services.router.fleet import Fleet, ask, routed
from tests.services.router.test_placement import workers

pytestmark = pytest.mark.timeout(120)

PID = 77


async def second(fleet: Fleet) -> RouterService:
    """One more router, and both know of each other."""
    other = await fleet.start(RouterService, "2")
    both = ("router-1", "router-2")

    def known() -> bool:
        now = time.monotonic()
        return all(it.siblings.at_work(now) == both for it in (fleet.router, other))

    await until(known, "two routers that know of each other")
    await until(lambda: len(other.dispatcher.workers) == len(fleet.encoders), "its workers")
    return other


def others_of(router: RouterService) -> tuple[str, ...]:
    return router.siblings.others(time.monotonic())


async def test_every_request_is_one_routers_and_each_has_a_share(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    other = await second(fleet)
    assigned = await fleet.ear(EncodeAssigned, to="encoder-1")
    answers = await fleet.ear(EncodeCompleted, EncodeFailed, to="client-1")
    bus = await fleet.bus("/client/1")
    for number in range(40):
        await ask(bus, "a text", id=f"{number}", route="base")
    await answers.first(EncodeCompleted, 40)

    assert [len(ear.events) for ear in (assigned, answers)] == [40, 40]
    shares = Counter(event.data.router for event in assigned.events)
    assert set(shares) == {"router-1", "router-2"}
    assert shares["router-2"] == other.counters["requests"]
    books = [router.dispatcher.books for router in (fleet.router, other)]
    await until(lambda: not any(map(len, books)), "empty books")


async def test_both_know_the_same_skills_and_route_alike(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    about = "I have lost my bank card"
    (early,) = await fleet.teach(routed("banking", about))
    other = await second(fleet)
    (late,) = await fleet.teach(skill("law", seed=3))
    await until(lambda: late.key in other.skills.directory, "what came after its start")

    answers = await fleet.ear(EncodeCompleted, to="client-1")
    bus = await fleet.bus("/client/1")
    for number in range(12):
        await ask(bus, about, id=f"auto {number}")
        await ask(bus, "a", id=f"named {number}", route="named", skills=("law",))
    await answers.first(EncodeCompleted, 24)

    assert all(router.counters["requests"] for router in (fleet.router, other))
    made = {
        (event.data.request_id.split()[0], event.data.rows[0].skills[0].digest)
        for event in answers.events
    }
    assert made == {("auto", early.key), ("named", late.key)}


async def test_who_leaves_hands_its_share_to_the_others_at_once(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    other = await second(fleet)
    await fleet.mute(other)
    await fleet.beat(other, PID, "draining")
    await until(lambda: not others_of(fleet.router), "that it knows itself alone")
    bus = await fleet.bus("/client/1")
    answers = await fleet.ear(EncodeCompleted, to="client-1")
    for number in range(12):
        await ask(bus, "a text", id=f"{number}", route="base")
    await answers.first(EncodeCompleted, 12)
    assert (fleet.router.counters["requests"], other.counters["requests"]) == (12, 0)


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "in hand"])
async def test_what_a_gone_router_had_is_taken_over_and_computed_once(
    fleet: Fleet, answered: bool
) -> None:
    """The worker has it, for the router that is gone; it tells the one that took its place."""
    await fleet.up(workers=1)
    (encoder,) = fleet.encoders
    other = await second(fleet)
    assigned = await fleet.ear(EncodeAssigned, to="encoder-1")
    answers = await fleet.ear(EncodeCompleted, to="client-1")
    bus = await fleet.bus("/client/1")
    id = next(
        it
        for it in map(str, range(100))
        if other.siblings.is_mine(f"/client/1\n{it}", time.monotonic())
    )
    busy = threading.Event()
    encoder._torch.submit(busy.wait)
    if answered:
        busy.set()
    await ask(bus, "a text", id=id, route="base")
    await assigned.first(EncodeAssigned)
    if answered:
        await answers.first(EncodeCompleted)
    await fleet.mute(other)
    await fleet.beat(other, PID, "stopped")
    await fleet.kill(other)
    await until(lambda: not others_of(fleet.router), "that it knows itself alone")

    await ask(bus, "a text", id=id, route="base")
    await assigned.first(EncodeAssigned, 2)
    if not answered:
        await until(lambda: bool(encoder.hand.asked_too), "the second assignment")
        busy.set()

    await answers.first(EncodeCompleted, 1 + answered)
    await until(lambda: len(fleet.router.dispatcher.books) == 0, "empty books")
    assert [event.data.router for event in assigned.events] == ["router-2", "router-1"]
    assert fleet.router.meter.answers == 1
    assert encoder.counters["texts"] == 1


def test_what_waits_at_a_worker_for_others_counts_until_it_must_be_done() -> None:
    fleet = workers("encoder-1", "encoder-2")
    for address in ("encoder-1", "encoder-2"):
        fleet.paced(address, 100.0)
    fleet.take("encoder-1", 50)
    fleet.waits("encoder-1", 40)
    assert fleet.choose(Work(tokens=1)) == "encoder-2", "these are our own"
    fleet.waits("encoder-2", 300)
    assert fleet.choose(Work(tokens=1)) == "encoder-1", "those are another router's"
    fleet.elapse(3.0)
    assert fleet.choose(Work(tokens=1)) == "encoder-2"


def test_each_router_admits_its_part() -> None:
    routers = 1
    books = Outstanding()
    admission = Admission(books, Limits(texts=10, seconds=6.0), lambda: 100.0, lambda: routers)
    books.open(Entry(key=("/a", "1"), deadline=datetime.now(UTC), texts=4, tokens=100))
    admission.check("/b", 2, 100, 60.0, 0.0)
    assert admission.wait("/b", 100, 0.0) == 1.0
    routers = 2
    assert admission.wait("/b", 100, 0.0) == 2.0
    with pytest.raises(Refused, match="4 texts are unanswered, 5 may be"):
        admission.check("/b", 2, 100, 60.0, 0.0)
