"""Workers share, die and come back; requests are bounded, timely and answered once."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas import (
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeRequested,
    Event,
    now,
)
from services.encoder.service import EncoderService
from services.runtime.vectors import from_stream
from tests.services.encoder.processes import settings, skill, until
from tests.services.router.fleet import Fleet, ask, base, reasons, routed

pytestmark = pytest.mark.timeout(120)


async def test_two_encoders_share_the_load_and_mix_cards_in_a_batch(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(*(skill(f"law{n}", seed=n, body=True) for n in range(3)))
    client = await fleet.client(chunk=8, in_flight=16)
    texts = [f"question number {n} about something" for n in range(64)]
    answers = await asyncio.gather(
        client.encode(texts, route="base"),
        *(client.encode(texts, skills=[f"law{n}"]) for n in range(3)),
    )
    assert all(len(answer.vectors) == 64 for answer in answers)
    counters = [encoder.counters for encoder in fleet.encoders]
    assert all(counter["texts"] >= 64 for counter in counters), "both did their part"
    assert sum(counter["mixed_batches"] for counter in counters) >= 1
    alone = await client.encode(texts[:2], skills=["law1"])
    np.testing.assert_allclose(alone.vectors, answers[2].vectors[:2], atol=1e-5)


async def test_what_a_dead_worker_had_is_done_by_another(fleet: Fleet) -> None:
    await fleet.up()
    first, second = fleet.encoders
    # One that lives by its heartbeats, but hears nothing.
    for task in first._tasks:
        task.cancel()
    fleet.router.dispatcher.workers.take("encoder-2", 10_000)
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode(["a text"], route="base"))
    books = fleet.router.dispatcher.books
    await until(lambda: bool(books.of_worker("encoder-1")), "the assignment to the dead one")

    await fleet.mute(first)

    answer = await waiting
    np.testing.assert_allclose(answer.vectors, base("a text"), atol=1e-5)
    assert fleet.router.dispatcher.reassigned == 1
    assert second.counters["texts"] == 1
    assert len(books) == 0


async def test_a_new_process_under_the_same_name_gets_the_work_at_once(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    (encoder,) = fleet.encoders
    await fleet.kill(encoder)
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode(["a text"], route="base"))
    books = fleet.router.dispatcher.books
    await until(lambda: bool(books.of_worker("encoder-1")), "the assignment to the dead one")
    await fleet.start(EncoderService, "1")
    assert reasons(await waiting) == ["base_requested"]


async def test_a_request_waits_for_a_worker_until_its_deadline(fleet: Fleet) -> None:
    await fleet.up(workers=0)
    ear = await fleet.ear(EncodeFailed, EncodeCompleted, to="client-1")
    bus = await fleet.bus("/client/1")
    await ask(bus, "a text", id="patient", route="base")
    await ask(bus, "too late", id="hasty", route="base", deadline_ms=300)
    failed = await ear.first(EncodeFailed)
    assert (failed.data.request_id, failed.data.code) == ("hasty", "deadline")
    await fleet.start(EncoderService)
    assert (await ear.first(EncodeCompleted)).data.request_id == "patient"
    await until(lambda: len(fleet.router.dispatcher.books) == 0, "empty books")


async def test_a_request_whose_deadline_has_passed_already_is_not_taken(fleet: Fleet) -> None:
    await fleet.up(workers=0)
    ear = await fleet.ear(EncodeFailed, to="client-1")
    bus = await fleet.bus("/client/1")
    data = EncodeRequested(texts=("x",), reply_to="client-1", deadline_ms=1000)
    await bus.publish(Event(data=data, source="/client/1", time=now() - timedelta(seconds=5)))
    assert (await ear.first(EncodeFailed)).data.code == "deadline"


async def test_a_late_routed_request_is_told_and_leaves_nothing_behind(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    await fleet.teach(routed("banking", "I have lost my bank card"))
    await fleet.kill(fleet.encoders[0])
    ear = await fleet.ear(EncodeFailed, to="client-1")
    await ask(await fleet.bus("/client/1"), "something new", id="late", deadline_ms=300)
    failed = await ear.first(EncodeFailed)
    assert (failed.data.request_id, failed.data.code) == ("late", "deadline")
    await until(lambda: len(fleet.router.dispatcher.books) == 0, "empty books")


async def test_beyond_the_bound_requests_are_refused_at_once(fleet: Fleet) -> None:
    await fleet.up(workers=0, settings=settings(router={"max_outstanding_texts": 10}))
    ear = await fleet.ear(EncodeFailed, to="client-1")
    bus = await fleet.bus("/client/1")
    await ask(bus, *"abcdefgh", id="fits", route="base")
    await ask(bus, *"abc", id="too much", route="base")
    failed = await ear.first(EncodeFailed)
    assert (failed.data.request_id, failed.data.code) == ("too much", "overloaded")
    assert failed.data.retry_after_ms is not None
    assert failed.data.retry_after_ms > 0
    await fleet.start(EncoderService)
    await until(lambda: fleet.router.queue == 0, "the first one answered")
    await ask(bus, *"abc", id="too much", route="base")
    await until(lambda: fleet.router.dispatcher.finished_texts == 11, "the second one too")


async def test_a_resent_request_is_assigned_once_and_answered_alike(fleet: Fleet) -> None:
    await fleet.up()
    assigned = [
        await fleet.ear(EncodeAssigned, to="encoder-1"),
        await fleet.ear(EncodeAssigned, to="encoder-2"),
    ]
    answers = await fleet.ear(EncodeCompleted, to="client-1")
    bus = await fleet.bus("/client/1")
    for _ in range(3):
        await ask(bus, "one", "two", id="again", route="base")
    first = await answers.first(EncodeCompleted)
    assert sum(len(ear.events) for ear in assigned) == 1
    await until(lambda: len(fleet.router.dispatcher.books) == 0, "empty books")

    await ask(bus, "one", "two", id="again", route="base")

    second = await answers.first(EncodeCompleted, 2)
    assert second == first, "the worker that has the answer sends it again"
    assert sum(encoder.counters["texts"] for encoder in fleet.encoders) == 2


async def test_two_clients_may_use_the_same_id(fleet: Fleet) -> None:
    await fleet.up()
    ears = {}
    for name, text in (("1", "one"), ("2", "two")):
        ears[text] = await fleet.ear(EncodeCompleted, to=f"client-{name}")
        await ask(await fleet.bus(f"/client/{name}"), text, id="same", route="base")
    for text, ear in ears.items():
        answer = await ear.first(EncodeCompleted)
        np.testing.assert_allclose(from_stream(answer.attachments[0]), base(text), atol=1e-5)


async def test_an_answer_bears_the_requests_id_whatever_it_belongs_to(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    ear = await fleet.ear(EncodeCompleted, EncodeFailed, to="client-1")
    bus = await fleet.bus("/client/1")
    good = EncodeRequested(texts=("a",), reply_to="client-1", route="base")
    bad = msgspec.structs.replace(good, texts=())
    for id, data in (("good", good), ("bad", bad)):
        await bus.publish(Event(data=data, source="/client/1", id=id, correlation_id="a batch"))
    assert (await ear.first(EncodeFailed)).correlation_id == "bad"
    assert (await ear.first(EncodeCompleted)).correlation_id == "good"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"route": "named"}, "invalid"),
        ({"top_k": 9}, "invalid"),
        ({"texts": ("x" * 100_000,)}, "too_large"),
        ({"texts": ("x",) * 2_000}, "too_large"),
    ],
)
async def test_contradictions_and_excess_are_refused(
    fleet: Fleet, fields: dict[str, Any], code: str
) -> None:
    await fleet.up(workers=0)
    ear = await fleet.ear(EncodeFailed, to="client-1")
    bus = await fleet.bus("/client/1")
    texts = fields.pop("texts", ("a",))
    await ask(bus, *texts, id="wrong", **fields)
    assert (await ear.first(EncodeFailed)).data.code == code
