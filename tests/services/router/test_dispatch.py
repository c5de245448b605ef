"""The dispatcher alone: what it sends to whom, and when again."""

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from schemas import AssignedRow, EncodeAssigned, EncodeFailed, EncodeRequested, Event, now
from services.router import dispatch
from services.router.dispatch import Dispatcher
from services.router.errors import Refused
from services.router.outstanding import Answer, Entry
from services.router.placement import Work


class Post:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Event[Any]] = []

    async def __call__(self, event: Event[Any]) -> None:
        self.sent.append(event)


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def dispatcher(post: Post) -> Dispatcher:
    dispatcher = Dispatcher(source="/router/1", address="router-1", send=post)
    await dispatcher.beat("encoder-1", 1, "ready")
    return dispatcher


async def place(dispatcher: Dispatcher, id: str = "1", seconds: float = 30.0) -> Entry:
    request: Event[EncodeRequested] = Event(
        data=EncodeRequested(texts=("a",), reply_to="client-1"), source="/client/1", id=id
    )
    deadline = now() + timedelta(seconds=seconds)
    entry = Entry(key=("/client/1", id), deadline=deadline, texts=1, request=request)
    dispatcher.books.open(entry)
    data = EncodeAssigned(
        request_id=id,
        texts=("a",),
        role="query",
        deadline=deadline,
        skills=(),
        rows=(AssignedRow(reason="base_requested"),),
        reply_to="client-1",
        router="router-1",
    )
    await dispatcher.place(entry, request.derive(data, source="/router/1"), Work(tokens=5, tie=id))
    return entry


async def test_an_assignment_keeps_its_id_when_it_is_handed_on(
    dispatcher: Dispatcher, post: Post
) -> None:
    await place(dispatcher)
    await dispatcher.beat("encoder-2", 2, "ready")
    await dispatcher.beat("encoder-1", 1, "stopped")
    assert [event.to for event in post.sent] == ["encoder-1", "encoder-2"]
    assert post.sent[0].id == post.sent[1].id
    assert dispatcher.reassigned == 1


async def test_what_waits_goes_to_the_first_worker_that_comes(post: Post) -> None:
    dispatcher = Dispatcher(source="/router/1", address="router-1", send=post)
    await place(dispatcher)
    assert not post.sent
    await dispatcher.beat("encoder-1", 1, "starting")
    assert not post.sent
    await dispatcher.beat("encoder-1", 1, "ready")
    assert [event.to for event in post.sent] == ["encoder-1"]


async def test_load_is_given_back_whatever_becomes_of_a_request(
    dispatcher: Dispatcher, post: Post
) -> None:
    entry = await place(dispatcher)
    worker = dispatcher.workers.get("encoder-1")
    assert worker is not None
    assert worker.load == 5
    assert dispatcher.drop(entry)
    assert worker.load == 0
    assert not dispatcher.drop(entry)

    await place(dispatcher, "2")
    await dispatcher.beat("encoder-1", 99, "ready")
    fresh = dispatcher.workers.get("encoder-1")
    assert fresh is not None
    assert fresh.load == 5, "the new process has it in hand, once"


async def test_an_impatient_client_has_the_assignment_sent_again_to_the_same_worker(
    dispatcher: Dispatcher, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await place(dispatcher)
    await dispatcher.repeat(entry)
    assert len(post.sent) == 1, "too soon"
    monkeypatch.setattr(dispatch, "PATIENCE", -1.0)
    await dispatcher.repeat(entry)
    assert [event.to for event in post.sent] == ["encoder-1", "encoder-1"]
    assert post.sent[0] == post.sent[1]


async def test_the_routers_own_request_is_sent_again_until_it_is_answered(
    dispatcher: Dispatcher, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", -1.0)
    asking = asyncio.create_task(dispatcher.ask("query", ("a", "b"), now() + timedelta(seconds=30)))
    await asyncio.sleep(0)
    await dispatcher.tick()
    assert len(post.sent) == 2
    assert dispatcher.books.all.texts == 0, "outside the bound"

    answer = Answer(np.zeros((2, 3), np.float32), "encoder-1")
    dispatcher.answered(post.sent[0].id, answer)
    dispatcher.answered(post.sent[0].id, answer)

    assert await asking is answer
    assert len(dispatcher.books) == 0


async def test_the_routers_own_request_may_fail(dispatcher: Dispatcher, post: Post) -> None:
    asking = asyncio.create_task(dispatcher.ask("query", ("a",), now() + timedelta(seconds=30)))
    await asyncio.sleep(0)
    failed = EncodeFailed(request_id=post.sent[0].id, code="internal", message="broken")
    dispatcher.refused(post.sent[0].id, failed)
    with pytest.raises(Refused, match="broken"):
        await asking
    assert len(dispatcher.books) == 0

    with pytest.raises(Refused, match="deadline"):
        await asyncio.gather(
            dispatcher.ask("query", ("a",), now() - timedelta(seconds=1)), dispatcher.tick()
        )


async def test_late_requests_are_named_once(dispatcher: Dispatcher) -> None:
    entry = await place(dispatcher, seconds=-1)
    assert await dispatcher.tick() == (entry,)
    assert await dispatcher.tick() == ()
    assert dispatcher.books.all.texts == 0


async def test_a_decision_that_comes_too_late_is_not_assigned(
    dispatcher: Dispatcher, post: Post
) -> None:
    entry = await place(dispatcher, seconds=-1)
    await dispatcher.tick()
    sent = len(post.sent)
    assigned = entry.assigned
    assert assigned is not None
    await dispatcher.place(entry, assigned, Work(tokens=1))
    assert len(post.sent) == sent
