"""Each distinct text goes through the model once; heads need none."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.card import Adapter, BaseModel, LoRACard
from lora.head import bend
from schemas import AssignedRow, EncodeAssigned, Event
from services.encoder.batcher import Job, Row
from services.encoder.cache import VectorCache
from services.encoder.passes import compute

DIM = 4


class Counting:
    """An engine that notes what it is asked; a text's vector follows from its letters."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], list[tuple[str, ...]]]] = []

    def tokenize(self, texts: Sequence[str], *, role: str = "query") -> list[Sequence[int]]:
        return [list(map(ord, text)) for text in texts]

    def encode_rows(
        self,
        texts: Sequence[str],
        rows: Sequence[Sequence[LoRACard]],
        *,
        tokens: Sequence[Sequence[int]] | None = None,
        role: str = "query",
    ) -> NDArray[np.float32]:
        assert tokens is not None
        assert [len(ids) for ids in tokens] == [len(text) for text in texts]
        self.calls.append((role, list(texts), [tuple(card.name for card in row) for row in rows]))
        return np.stack(
            [base(text) + 100 * len(row) for text, row in zip(texts, rows, strict=True)]
        )


def base(text: str) -> NDArray[np.float32]:
    return np.array([len(text), *map(ord, text[: DIM - 1].ljust(DIM - 1))], np.float32)


def card(name: str, *, body: bool = False) -> LoRACard:
    random = np.random.default_rng(len(name))
    head = Adapter(
        random.normal(size=(DIM, 1)).astype(np.float32),
        random.normal(size=(1, DIM)).astype(np.float32),
        1,
        1.0,
    )
    return LoRACard(
        name=name,
        base_model=BaseModel("tiny", "a" * 64),
        dim=DIM,
        modules={"layer.0.query" if body else "embedding": head},
    )


def rows(
    texts: Sequence[str], stacks: Sequence[tuple[LoRACard, ...]], role: Any = "query"
) -> list[Row]:
    data = EncodeAssigned(
        request_id="r",
        texts=tuple(texts),
        role=role,
        deadline=datetime(2026, 1, 1, tzinfo=UTC),
        skills=(),
        rows=(AssignedRow(),) * len(texts),
        reply_to="client",
        router="router-1",
    )
    event = Event(data=data, source="/router/1", to="encoder-1")
    job = Job(event, tuple(stacks), (1,) * len(texts), received=0.0)
    return [Row(job, place) for place in range(len(texts))]


def test_rows_of_one_text_share_a_pass_and_fill_the_cache() -> None:
    engine, cache = Counting(), VectorCache(10)
    law = card("law")
    outcome = compute(engine, cache, rows(["aa", "aa", "b"], [(), (law,), ()]))

    assert engine.calls == [("query", ["aa", "b"], [(), ()])]
    assert (outcome.passed, outcome.tokens) == (2, 3)
    assert [known.tokens for known in outcome.rows] == [2, 2, 1]
    head = law.head
    assert head is not None
    np.testing.assert_array_equal(outcome.rows[0].vector, base("aa"))
    np.testing.assert_allclose(outcome.rows[1].vector, bend(base("aa")[None], [head])[0])

    again = compute(engine, cache, rows(["aa", "b"], [(law,), (law,)]))
    assert len(engine.calls) == 1, "heads on known texts need no pass"
    assert (again.passed, again.tokens) == (0, 0)
    np.testing.assert_allclose(again.rows[0].vector, outcome.rows[1].vector, rtol=1e-6)


def test_a_card_with_a_body_needs_a_pass_of_its_own_and_stays_out_of_the_cache() -> None:
    engine, cache = Counting(), VectorCache(10)
    deep, head = card("deep", body=True), card("head")
    outcome = compute(engine, cache, rows(["a", "a", "a"], [(), (deep,), (deep, head)]))

    (call,) = engine.calls
    assert sorted(call[2]) == [(), ("deep",), ("deep", "head")], "one call, mixed cards"
    np.testing.assert_array_equal(outcome.rows[1].vector, base("a") + 100)
    np.testing.assert_array_equal(outcome.rows[2].vector, base("a") + 200)
    known = cache.get("query", "a")
    assert known is not None
    np.testing.assert_array_equal(known.vector, base("a"))


def test_stacked_heads_act_together() -> None:
    law, tax = card("law"), card("taxes")
    outcome = compute(Counting(), VectorCache(10), rows(["a"], [(law, tax)]))
    assert law.head is not None
    assert tax.head is not None
    np.testing.assert_allclose(
        outcome.rows[0].vector, bend(base("a")[None], [law.head, tax.head])[0]
    )


def test_roles_are_kept_apart() -> None:
    engine, cache = Counting(), VectorCache(10)
    compute(engine, cache, rows(["a"], [()]) + rows(["a"], [()], role="document"))
    assert [call[0] for call in engine.calls] == ["document", "query"]
    assert len(cache) == 2


def test_without_a_cache_everything_is_still_right() -> None:
    outcome = compute(Counting(), VectorCache(0), rows(["a", "a"], [(), ()]))
    np.testing.assert_array_equal(outcome.rows[1].vector, base("a"))
