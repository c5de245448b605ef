"""Router, manager and two encoders with the real model: routing, sharing, dying, refusing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bus import Bus
from lora.card import LoRACard
from schemas import (
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeRequested,
    Event,
    SkillDiscovered,
    SkillFetched,
    SkillInstalled,
    SkillRetire,
    SkillRetired,
    SkillUnavailable,
    SkillWanted,
    now,
)
from services.adapter_manager.service import AdapterManagerService
from services.encoder.service import EncoderService
from services.errors import EncodeFailedError
from services.router.service import RouterService
from services.runtime.cards import describe
from services.runtime.client import Encoded, FleetClient
from services.runtime.settings import Settings
from services.runtime.vectors import from_stream
from tests.services.encoder.processes import Processes, applied, engine, settings, skill, until

pytestmark = pytest.mark.timeout(120)


class Fleet(Processes):
    """The whole of it."""

    manager: AdapterManagerService
    router: RouterService
    encoders: list[EncoderService]

    async def up(self, *, workers: int = 2, settings: Settings | None = None) -> "Fleet":
        self.manager = await self.start(AdapterManagerService, settings=settings)
        self.router = await self.start(RouterService, settings=settings)
        self.encoders = [
            await self.start(EncoderService, str(number + 1), settings=settings)
            for number in range(workers)
        ]
        await until(lambda: len(self.router.dispatcher.workers) == workers, "the workers")
        return self

    async def teach(self, *cards: LoRACard) -> list[LoRACard]:
        """Publish cards and wait until the router knows them."""
        stored = [self.store.put(card) for card in cards]
        for card in stored:
            await self.publish(card, to_store=False)
        await until(
            lambda: all(card.key in self.router.skills.directory for card in stored), "the skills"
        )
        return stored


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    await fleet.aclose()


def base(*texts: str) -> np.ndarray:
    return engine(0).encode(list(texts))


def routed(name: str, about: str, **fields: Any) -> LoRACard:
    """A skill that is routed to by texts like `about`."""
    return skill(name, prototypes=base(about), threshold=0.6, description=about, **fields)


async def refused(client: FleetClient, texts: Any, **options: Any) -> EncodeFailedError:
    """The error that a request ends with."""
    try:
        await client.encode(texts, **options)
    except EncodeFailedError as error:
        return error
    except ExceptionGroup as group:
        (error,) = group.exceptions
        assert isinstance(error, EncodeFailedError)
        return error
    raise AssertionError("it was answered")


async def ask(bus: Bus, *texts: str, id: str, **fields: Any) -> Event[EncodeRequested]:
    data = EncodeRequested(texts=texts, reply_to=bus.address, **fields)
    event: Event[EncodeRequested] = Event(data=data, source=bus.source, id=id)
    await bus.publish(event)
    return event


def reasons(answer: Encoded) -> list[str | None]:
    return [row.reason for row in answer.rows]


# Routes -----------------------------------------------------------------------------------------


async def test_a_base_request_is_answered_with_the_models_own_vectors(fleet: Fleet) -> None:
    await fleet.up()
    client = await fleet.client()
    answer = await client.encode(["one", "two"], route="base")
    np.testing.assert_allclose(answer.vectors, base("one", "two"), atol=1e-5)
    assert reasons(answer) == ["base_requested"] * 2


async def test_a_named_skill_is_applied_by_every_form_of_its_name(fleet: Fleet) -> None:
    await fleet.up()
    first, second = await fleet.teach(skill("law", 1, seed=1), skill("law", 2, seed=2))
    client = await fleet.client()
    for name, card in (
        ("law", second),
        ("law@1", first),
        (first.key, first),
        (second.key[:19], second),
    ):
        answer = await client.encode(["a text"], skills=[name])
        expected = engine(1).encode_rows(["a text"], [[card]])
        np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
        (used,) = answer.rows[0].skills
        assert (used.digest, used.version, used.score) == (card.key, card.version, 1.0)


async def test_skills_stack_in_one_row(fleet: Fleet) -> None:
    await fleet.up()
    cards = await fleet.teach(
        skill("law", seed=1), skill("tax", seed=2, body=True), skill("art", seed=3)
    )
    client = await fleet.client()
    answer = await client.encode(["a text"], skills=["law", "tax", "art"])
    expected = engine(1).encode_rows(["a text"], [cards])
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert applied(answer.rows) == [("law", "tax", "art")]


async def test_an_unknown_skill_is_an_error_that_names_what_is_near(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(skill("banking"))
    error = await refused(await fleet.client(), ["a text"], skills=["bankign"])
    assert error.code == "unknown_skill"
    assert "did you mean 'banking'" in str(error)


async def test_auto_routes_each_text_and_says_why_not(fleet: Fleet) -> None:
    await fleet.up()
    client = await fleet.client()
    texts = ["I lost my bank card", "the weather is fine", "my bank card was stolen"]
    assert reasons(await client.encode(texts)) == ["no_skills"] * 3

    (card,) = await fleet.teach(routed("banking", "I have lost my bank card"))
    answer = await client.encode(texts)

    assert applied(answer.rows) == [("banking",), (), ("banking",)]
    assert reasons(answer) == [None, "below_threshold", None]
    expected = engine(1).encode_rows(texts, [[card], [], [card]])
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert answer.rows[0].skills[0].score == pytest.approx(
        float(base(texts[0])[0] @ base("I have lost my bank card")[0]), abs=1e-4
    )


async def test_a_head_on_a_text_that_was_routed_needs_no_second_pass(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(routed("banking", "I have lost my bank card"))
    client = await fleet.client()
    before = [engine(number).statistics().rows for number in (0, 1)]
    await client.encode(["I have lost my credit card"])
    after = [engine(number).statistics().rows for number in (0, 1)]
    assert sum(after) - sum(before) == 1


async def test_an_intent_decides_for_all_rows_and_top_k_stacks(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(
        routed("banking", "I have lost my bank card", seed=1),
        routed("cards", "I lost a bank card", seed=2),
    )
    client = await fleet.client()
    answer = await client.encode(["x", "y"], intent="I have lost my bank card")
    assert applied(answer.rows) == [("banking",)] * 2
    answer = await client.encode(["x", "y"], intent="I have lost my bank card", top_k=2)
    assert applied(answer.rows) == [("banking", "cards")] * 2
    answer = await client.encode(["I have lost my bank card"], intent="the weather")
    assert reasons(answer) == ["below_threshold"]


async def test_a_card_without_prototypes_is_found_by_its_description(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(skill("cooking", description="how to cook a meal", threshold=0.1))
    client = await fleet.client()

    async def found() -> bool:
        answer = await client.encode(["how to cook a meal", "the law of torts"])
        return applied(answer.rows) == [("cooking",), ()]

    await until(found, "the description in the index")


async def test_a_card_for_named_use_only_is_never_routed_to(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    await fleet.teach(skill("banking", prototypes=base(about), threshold=None))
    client = await fleet.client()
    assert reasons(await client.encode([about])) == ["no_skills"]
    assert applied((await client.encode([about], skills=["banking"])).rows) == [("banking",)]


async def test_documents_stay_as_they_are_unless_a_card_says_so(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    await fleet.teach(routed("banking", about))
    client = await fleet.client()
    for options in ({}, {"skills": ["banking"]}, {"intent": about}):
        answer = await client.encode([about], role="document", **options)
        assert reasons(answer) == ["document"]
        np.testing.assert_allclose(answer.vectors, base(about), atol=1e-5)

    await fleet.teach(routed("both", about, seed=5, applies_to=("query", "document")))
    answer = await client.encode([about, "the weather"], role="document")
    assert applied(answer.rows) == [("both",), ()]
    answer = await client.encode([about], role="document", skills=["banking", "both"])
    assert applied(answer.rows) == [("both",)]


async def test_retiring_a_version_brings_the_one_before_back(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    _, second = await fleet.teach(routed("banking", about), routed("banking", about, version=2))
    client = await fleet.client()
    assert (await client.encode([about])).rows[0].skills[0].version == 2
    ear = await fleet.ear(SkillRetired)
    bus = await fleet.bus("/factory/1")
    data = SkillRetire(name="banking", version=2, digest=second.key, reason="worse")
    await bus.publish(Event(data=data, source="/factory/1"))
    await ear.first(SkillRetired)
    await until(lambda: second.key not in fleet.router.skills.directory, "the router")
    for options in ({}, {"skills": ["banking"]}):
        assert (await client.encode([about], **options)).rows[0].skills[0].version == 1
    assert (await refused(client, ["x"], skills=["banking@2"])).code == "unknown_skill"


async def test_a_router_that_starts_anew_knows_what_is_installed(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(routed("banking", "I have lost my bank card"))
    await fleet.kill(fleet.router)
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode(["I have lost my bank card"]))
    await asyncio.sleep(0)
    await fleet.start(RouterService)
    assert applied((await waiting).rows) == [("banking",)]


# Workers ----------------------------------------------------------------------------------------


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


# Bounds and repetition --------------------------------------------------------------------------


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


# Peers ------------------------------------------------------------------------------------------


class Peer:
    """A federation process that offers one card."""

    def __init__(self, fleet: Fleet, card: LoRACard) -> None:
        self.fleet = fleet
        self.card = fleet.store.put(card)

    async def offer(self) -> None:
        self.bus = await self.fleet.bus("/federation/1")
        self.wants = await self.fleet.ear(SkillWanted)
        data = SkillDiscovered(card=describe(self.card), peer="london")
        await self.bus.publish(Event(data=data, source="/federation/1"))
        directory = self.fleet.router.skills.directory
        await until(lambda: bool(directory.offered()), "the offer")

    async def deliver(self) -> None:
        await self.wants.first(SkillWanted)
        data = SkillFetched(card=describe(self.card), peer="london")
        await self.bus.publish(Event(data=data, source="/federation/1"))


async def test_a_peers_skill_is_wished_for_awaited_and_used(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 20.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    assert (await refused(client, ["x"], skills=["banking"])).code == "unknown_skill"

    waiting = asyncio.create_task(client.encode([about, "the weather"]))
    await peer.deliver()

    assert applied((await waiting).rows) == [("banking",), ()]
    wanted = peer.wants.events[0].data
    assert (wanted.digest, wanted.name, wanted.peer) == (peer.card.key, "banking", "london")
    assert applied((await client.encode(["x"], skills=["london/banking"])).rows) == [("banking",)]
    assert len(peer.wants.events) == 1


async def test_a_peers_skill_that_does_not_come_is_said_so(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 0.2}))
    about = "I have lost my bank card"
    await fleet.teach(skill("law"))
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()

    answer = await client.encode([about, "the weather"])
    assert reasons(answer) == ["peer_timeout", "below_threshold"]
    np.testing.assert_allclose(answer.vectors[:1], base(about), atol=1e-5)

    assert reasons(await client.encode([about])) == ["peer_timeout"]
    assert len(peer.wants.events) == 1, "not wished for again so soon"

    answer = await client.encode([about], skills=["law", "london/banking"])
    assert applied(answer.rows) == [("law",)]
    assert reasons(answer) == ["peer_timeout"], "one of the two is missing"
    assert len(peer.wants.events) == 2, "named: wished for again"


async def test_unavailable_ends_the_wait(fleet: Fleet) -> None:
    await fleet.up(workers=1, settings=settings(router={"peer_timeout": 60.0}))
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about))
    await peer.offer()
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode([about], skills=["london/banking"]))
    await peer.wants.first(SkillWanted)
    data = SkillUnavailable(digest=peer.card.key, name="banking", peer="london", reason="gone")
    await peer.bus.publish(Event(data=data, source="/federation/1"))
    assert reasons(await waiting) == ["peer_timeout"]


async def test_a_local_version_hides_a_peers(fleet: Fleet) -> None:
    await fleet.up(workers=1)
    about = "I have lost my bank card"
    peer = Peer(fleet, routed("banking", about, version=7))
    await peer.offer()
    await fleet.teach(routed("banking", about, version=2, seed=4))
    answer = await (await fleet.client()).encode([about])
    assert answer.rows[0].skills[0].version == 2
    assert not peer.wants.events


async def test_installed_is_told_before_a_request_may_name_it(fleet: Fleet) -> None:
    """Nobody has to sleep: what was told is there for who asks after that."""
    await fleet.up(workers=1)
    ear = await fleet.ear(SkillInstalled)
    await fleet.publish(skill("law"))
    await ear.first(SkillInstalled)
    client = await fleet.client()
    assert applied((await client.encode(["x"], skills=["law"])).rows) == [("law",)]
