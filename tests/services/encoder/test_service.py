"""An encoder alone: what is assigned is answered once, right, in time, or with a clear error."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from lora.card import BaseModel, LoRACard
from schemas import (
    AdapterFailed,
    AdapterLoad,
    AdapterLoaded,
    AdapterUnload,
    AdapterUnloaded,
    AssignedRow,
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeFinished,
    Event,
    SkillRef,
    now,
)
from services.encoder.errors import EncoderError
from services.encoder.service import EncoderService
from services.runtime.vectors import from_stream
from tests.services.encoder.processes import Ear, Processes, engine, settings, skill, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.aclose()


@pytest.fixture
async def encoder(processes: Processes) -> EncoderService:
    return await processes.start(EncoderService)


@pytest.fixture
async def answers(processes: Processes) -> Ear:
    return await processes.ear(EncodeCompleted, EncodeFailed, to="client-1")


@pytest.fixture
async def words(processes: Processes) -> Ear:
    return await processes.ear(EncodeFinished, to="router-1")


class Router:
    """Assigns, and nothing else."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    async def assign(
        self,
        *texts: str,
        cards: tuple[LoRACard, ...] = (),
        rows: tuple[tuple[int, ...], ...] | None = None,
        role: Any = "query",
        seconds: float = 30.0,
        request: str | None = None,
        twice: bool = False,
        several: bool = False,
        name: str = "router-1",
    ) -> Event[EncodeAssigned]:
        rows = rows or (tuple(range(len(cards))),) * len(texts)
        data = EncodeAssigned(
            request_id=request or uuid4().hex,
            texts=texts,
            role=role,
            deadline=now() + timedelta(seconds=seconds),
            skills=tuple(
                SkillRef(digest=card.key, name=card.name, version=card.version) for card in cards
            ),
            rows=tuple(
                AssignedRow(
                    skills=tuple((index, 0.5) for index in row),
                    reason=None if row else "base_requested",
                )
                for row in rows
            ),
            reply_to="client-1",
            router=name,
            several=several,
        )
        event: Event[EncodeAssigned] = Event(data=data, source="/router/1", to="encoder-1")
        bus = await self.processes.bus("/router/1")
        await bus.publish(*([event, event] if twice else [event]))
        return event


@pytest.fixture
def router(processes: Processes) -> Router:
    return Router(processes)


async def test_vectors_are_the_models_own_and_the_router_is_told(
    encoder: EncoderService, router: Router, answers: Ear, words: Ear
) -> None:
    texts = ("my card is lost", "a much longer question about the weather of tomorrow", "")
    assigned = await router.assign(*texts, role="document")

    answer = await answers.first(EncodeCompleted)

    data = answer.data
    vectors = from_stream(answer.attachments[0])
    np.testing.assert_allclose(
        vectors, engine(0).module.encode(list(texts)), atol=1e-5, err_msg="sentence-transformers"
    )
    assert (data.dim, vectors.shape) == (384, (3, 384))
    assert data.model == encoder.engine.base_model.id
    assert data.tokens == sum(encoder.engine.token_counts(texts))
    assert data.queue_ms >= 0
    assert data.compute_ms > 0
    assert [row.reason for row in data.rows] == ["base_requested"] * 3
    assert answer.correlation_id == assigned.data.request_id
    finished = await words.first(EncodeFinished)
    assert finished.causation_id == assigned.id
    assert (finished.data.worker, finished.data.failed) == ("encoder-1", None)


async def test_an_unknown_digest_is_opened_from_the_store_and_told(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear
) -> None:
    ear = await processes.ear(AdapterLoaded)
    card = processes.store.put(skill("law", body=True))

    await router.assign("one", "two", cards=(card,), rows=((0,), ()))

    answer = await answers.first(EncodeCompleted)
    expected = engine(1).encode_rows(["one", "two"], [[card], []])
    np.testing.assert_allclose(from_stream(answer.attachments[0]), expected, atol=1e-5)
    first, second = answer.data.rows
    assert [(s.name, s.digest, s.score) for s in first.skills] == [("law", card.key, 0.5)]
    assert first.reason is None
    assert second.reason == "base_requested"
    loaded = await ear.first(AdapterLoaded)
    assert (loaded.data.worker, loaded.data.digest) == ("encoder-1", card.key)
    assert encoder.counters["cards"] == 1


async def test_a_missing_card_is_an_error_never_a_base_vector(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear, words: Ear
) -> None:
    card = processes.store.put(skill("law"))
    processes.store.delete(card.key)
    assigned = await router.assign("one", cards=(card,))
    failed = await answers.first(EncodeFailed)
    assert failed.data.code == "unknown_skill"
    assert card.key in failed.data.message
    assert failed.correlation_id == assigned.data.request_id
    assert (await words.first(EncodeFinished)).data.failed == "unknown_skill"


@pytest.mark.parametrize("harm", ["bytes", "model"])
async def test_a_card_that_cannot_be_used_is_an_error(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear, harm: str
) -> None:
    base = BaseModel("other", "b" * 64) if harm == "model" else skill("x").base_model
    card = processes.store.put(skill("law", base_model=base))
    if harm == "bytes":
        path = processes.store.path(card.key)
        path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    await router.assign("one", cards=(card,))
    failed = await answers.first(EncodeFailed)
    assert failed.data.code == "internal"

    await router.assign("one")
    await answers.first(EncodeCompleted)


async def test_head_only_cards_on_known_texts_need_no_pass(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear
) -> None:
    card = processes.store.put(skill("law"))
    await router.assign("one", "two")
    await answers.first(EncodeCompleted)
    passed = engine(0).statistics().rows
    await router.assign("two", "one", cards=(card,))
    answer = await answers.first(EncodeCompleted, 2)
    assert engine(0).statistics().rows == passed
    assert encoder.counters["cache_hits"] == 2
    np.testing.assert_allclose(
        from_stream(answer.attachments[0]),
        engine(1).encode_rows(["two", "one"], [[card], [card]]),
        atol=1e-5,
    )


async def test_requests_with_different_cards_share_one_batch(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear
) -> None:
    cards = [processes.store.put(skill(f"law{n}", seed=n, body=True)) for n in range(3)]
    for card in cards:
        await encoder.shelf.get(card.key)
    await asyncio.gather(
        router.assign(*(f"warm up {n}" for n in range(60))),
        *(router.assign(f"text {n}", cards=(card,)) for n, card in enumerate(cards)),
    )
    await answers.first(EncodeCompleted, 4)
    assert encoder.counters["mixed_batches"] >= 1
    assert encoder.counters["batches"] < 4
    assert encoder.counters["texts"] == 63
    for answer in answers.of(EncodeCompleted):
        (row, *others) = answer.data.rows
        if others:
            continue
        number = int(row.skills[0].name[-1])
        alone = engine(1).encode_rows([f"text {number}"], [[cards[number]]])
        np.testing.assert_allclose(from_stream(answer.attachments[0]), alone, atol=1e-5)


async def test_three_cards_stack(
    processes: Processes, encoder: EncoderService, router: Router, answers: Ear
) -> None:
    cards = tuple(processes.store.put(skill(f"law{n}", seed=n, body=n == 1)) for n in range(3))
    await router.assign("text", cards=cards)
    answer = await answers.first(EncodeCompleted)
    np.testing.assert_allclose(
        from_stream(answer.attachments[0]),
        engine(1).encode_rows(["text"], [list(cards)]),
        atol=1e-5,
    )


async def test_a_request_past_its_deadline_is_dropped_and_the_router_alone_is_told(
    encoder: EncoderService, router: Router, answers: Ear, words: Ear
) -> None:
    await router.assign("too late", seconds=-1, request="late")
    assert (await words.first(EncodeFinished)).data.failed == "deadline"
    assert encoder.counters["texts"] == 0

    await router.assign("in time", request="next")
    answer = await answers.first(EncodeCompleted)
    assert answer.data.request_id == "next"
    assert not answers.of(EncodeFailed)


async def test_what_is_in_hand_or_was_just_answered_is_not_computed_twice(
    encoder: EncoderService, router: Router, answers: Ear, words: Ear
) -> None:
    first = await router.assign("one", request="r", twice=True)
    answer = await answers.first(EncodeCompleted)
    await until(lambda: not encoder.hand, "nothing in hand")
    computed = encoder.counters["texts"]

    await router.assign("one", request="r")

    again = await answers.first(EncodeCompleted, 2)
    assert again == answer, "the same event, kept once by whoever keeps"
    assert encoder.counters["texts"] == computed == 1
    assert (await words.first(EncodeFinished, 2)).causation_id == first.id


def told(words: Ear) -> list[tuple[str, str, str | None]]:
    """Assignment, request and failure, of all that was said."""
    return [
        each
        for word in words.of(EncodeFinished)
        for each in [
            (word.causation_id, word.data.request_id, word.data.failed),
            *((more.assignment, more.request_id, more.failed) for more in word.data.also),
        ]
    ]


async def test_of_a_batch_each_router_is_told_as_it_reads(
    processes: Processes,
    encoder: EncoderService,
    router: Router,
    answers: Ear,
    words: Ear,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, go = engine(0).encode_rows, threading.Event()

    def slow(texts: Any, rows: Any, **options: Any) -> Any:
        assert go.wait(60)
        return real(texts, rows, **options)

    monkeypatch.setattr(engine(0), "encode_rows", slow)
    others = await processes.ear(EncodeFinished, to="router-2")
    # Given: of one batch some come from routers that read several at once, some from one that
    # does not, and one from two routers.
    busy = await router.assign("busy")
    await until(lambda: len(encoder.hand) == 1 and not encoder.queue, "the first batch")
    first = [await router.assign(f"a {n}", several=True) for n in range(3)]
    second = [await router.assign(f"b {n}", several=True, name="router-2") for n in range(2)]
    older = [await router.assign(f"c {n}") for n in range(2)]
    both = older[1].data.request_id
    await router.assign("c 1", request=both, several=True, name="router-2")
    late = [await router.assign(f"d {n}", several=True, seconds=-1) for n in range(2)]
    await until(lambda: encoder.queue == 9 and bool(encoder.hand.asked_too), "the second batch")
    go.set()
    # Then: everybody is told of everything, once, and who reads it in one word.
    await answers.first(EncodeCompleted, 8)
    await until(lambda: (len(told(words)), len(told(others))) == (8, 3), "all words")
    expected = [(each.id, each.data.request_id, None) for each in (busy, *first, *older)]
    expected += [(each.id, each.data.request_id, "deadline") for each in late]
    assert sorted(told(words)) == sorted(expected)
    assert {name for _, name, _ in told(others)} == {both, *(e.data.request_id for e in second)}
    sizes = [
        [1 + len(word.data.also) for word in ear.of(EncodeFinished)] for ear in (words, others)
    ]
    assert [sorted(each) for each in sizes] == [[1, 1, 1, 2, 3], [1, 2]]
    assert not encoder.hand


async def test_a_request_that_fails_spoils_no_other_in_its_batch(
    processes: Processes,
    encoder: EncoderService,
    router: Router,
    answers: Ear,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = engine(0).encode_rows

    def fragile(texts: Any, rows: Any, **options: Any) -> Any:
        if "poison" in texts:
            raise RuntimeError("no such text")
        return real(texts, rows, **options)

    monkeypatch.setattr(engine(0), "encode_rows", fragile)
    await asyncio.gather(
        router.assign("busy"), router.assign("good"), router.assign("poison"), router.assign("fine")
    )
    await answers.first(EncodeCompleted, 3)
    failed = await answers.first(EncodeFailed)
    assert failed.data.code == "internal"
    assert "no such text" in failed.data.message


async def test_hints_load_pin_and_unload(processes: Processes, encoder: EncoderService) -> None:
    ear = await processes.ear(AdapterLoaded, AdapterUnloaded, AdapterFailed)
    card = processes.store.put(skill("law", body=True))
    bus = await processes.bus("/adapter_manager/1")

    async def hint(data: Any) -> Event[Any]:
        event: Event[Any] = Event(data=data, source="/adapter_manager/1", to="encoder-1")
        await bus.publish(event)
        return event

    asked = await hint(AdapterLoad(digest=card.key, pin=True))
    await until(
        lambda: any(e.causation_id == asked.id for e in ear.of(AdapterLoaded)), "adapter.loaded"
    )
    # Said once it is mapped; pinned after that.
    await until(lambda: card.key in engine(0).resident(), "the card in the model")

    await hint(AdapterUnload(digest=card.key))
    unloaded = await ear.first(AdapterUnloaded)
    assert unloaded.data.digest == card.key
    assert card.key not in engine(0).resident()
    assert encoder.counters["cards"] == 0

    await hint(AdapterLoad(digest="sha256:" + "0" * 64))
    failed = await ear.first(AdapterFailed)
    assert "no card" in (failed.data.message or "")


async def test_draining_answers_what_is_in_hand(
    encoder: EncoderService, router: Router, answers: Ear
) -> None:
    await router.assign(*(f"text {n}" for n in range(64)))
    await until(lambda: bool(encoder.hand), "the assignment")
    await encoder.drain()
    assert len(answers.of(EncodeCompleted)) == 1 or await answers.first(EncodeCompleted)
    assert encoder.queue == 0


async def test_the_same_id_for_other_texts_is_another_request(
    encoder: EncoderService, router: Router, answers: Ear
) -> None:
    """A client that has started anew may count from one again."""
    for number, text in enumerate(("one", "two"), start=1):
        await router.assign(text, request="1")
        answer = await answers.first(EncodeCompleted, number)
        np.testing.assert_allclose(
            from_stream(answer.attachments[0]), engine(1).encode([text]), atol=1e-5
        )


async def test_the_model_is_loaded_as_the_settings_say(processes: Processes) -> None:
    own = settings(encoder={"threads": 1, "device": "cpu"})
    encoder = await processes.start(EncoderService, settings=own, own_engine=True)
    assert encoder.engine is not engine(0)
    assert encoder.engine.dim == 384


async def test_a_missing_model_is_one_clear_sentence(processes: Processes) -> None:
    with pytest.raises(EncoderError, match=r"the model cannot be used: .*neither a folder"):
        await processes.start(
            EncoderService, settings=settings(fleet={"model": "/no/such/folder"}), own_engine=True
        )


async def test_a_card_that_cannot_be_opened_for_any_reason_is_told_and_not_kept_in_hand(
    encoder: EncoderService,
    router: Router,
    answers: Ear,
    words: Ear,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = processes.store.put(skill("law"))

    def refuse(digest: str) -> LoRACard:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(encoder.shelf._store, "open", refuse)
    await router.assign("a text", cards=(card,), request="r-1")

    failed = await answers.first(EncodeFailed)
    assert failed.data.code == "internal"
    assert "Permission denied" in failed.data.message
    await words.first(EncodeFinished)
    async with asyncio.timeout(5):
        await encoder.drain()
