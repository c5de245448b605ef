"""What teachers said is kept once, for ever, and vectors of two models are never mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.distiller import taught
from services.distiller.taught import Open, TaughtStore
from services.distiller.teacher import Asked, Contribution, Material, Pair
from services.runtime.store import open_store

MATERIAL = Material("birds", (Asked("a", ("p",)), Asked("b", novel=True)), ("p", "q"))


@pytest.fixture
def store(tmp_path: Path) -> TaughtStore:
    made = TaughtStore(open_store(tmp_path / "store.sqlite", taught.SCHEMA))
    made.wonder("birds", "one", "query", ["a", "b"], {"b"})
    made.wonder("birds", "one", "passage", ["p", "q"])
    return made


def open_texts(store: TaughtStore) -> list[str]:
    roles = ("query", "passage")
    return [one.text for role in roles for one in store.open("birds", "one", role)]  # type: ignore[arg-type]


def test_what_was_asked_is_never_open_again(store: TaughtStore) -> None:
    assert store.open("birds", "one", "query") == [Open("a", False), Open("b", True)]
    store.keep("birds", "one", MATERIAL, Contribution())
    store.wonder("birds", "one", "query", ["a", "c"])

    assert open_texts(store) == ["c"]
    assert store.open("bees", "one", "query") == []


def test_what_is_to_be_asked_again_stays_open_all_of_it_or_what_is_left(store: TaughtStore) -> None:
    store.keep("birds", "one", MATERIAL, Contribution(again=1.0, reason="busy"))
    assert open_texts(store) == ["a", "b", "p", "q"]
    assert store.reason("birds") == "busy"

    store.keep("birds", "one", MATERIAL, Contribution(left=frozenset({"b", "q"})))
    assert open_texts(store) == ["b", "q"]
    assert store.reason("birds") is None


def test_a_pair_said_again_is_one_pair_with_the_later_value(store: TaughtStore) -> None:
    first, later = (Pair("a", "p", value, "grade", "a") for value in (0.2, 0.7))
    for pair in (first, later, later):
        store.keep("birds", "one", MATERIAL, Contribution((pair,)))
    store.keep("birds", "two", MATERIAL, Contribution((first,)))

    found = store.lessons("birds", (), "two")

    assert list(found) == ["two", "one"]
    assert (found["one"].pairs, found["two"].pairs) == ((later,), (first,))
    assert store.lessons("bees", (), "one") == {}


def test_text_that_no_file_can_hold_is_left_out(store: TaughtStore) -> None:
    fine = Pair("fine", "p", 1.0, "question")
    pairs = (Pair("\ud800", "p", 1.0, "question"), Pair("no", "p", float("nan"), "grade"), fine)
    store.keep("birds", "one", MATERIAL, Contribution(pairs))

    assert store.lessons("birds", (), "one")["one"].pairs == (fine,)


def test_vectors_keep_their_direction_and_those_of_another_model_go(store: TaughtStore) -> None:
    def see(space: str, **vectors: list[float]) -> None:
        given = {text: np.array(values, np.float32) for text, values in vectors.items()}
        store.keep("birds", "one", MATERIAL, Contribution((), given, space=space))

    see("small", a=[3.0, 4.0], p=[0.0, 9e9])
    see("small", b=[1.0, 1.0], q=[float("nan"), 1.0])
    found = store.lessons("birds", ("a", "b", "p", "q"), "one")["one"].vectors
    assert set(found) == {"a", "b", "p"}
    np.testing.assert_allclose(found["a"], [0.6, 0.8], atol=1e-3)
    np.testing.assert_allclose(found["p"], [0.0, 1.0], atol=1e-3)

    see("large", b=[0.0, 1.0])
    assert set(store.lessons("birds", ("a", "b", "p"), "one")["one"].vectors) == {"b"}
    see("large", b=[0.0, 1.0], a=[1.0, 2.0, 3.0])  # two widths cannot be compared
    assert set(store.lessons("birds", ("a", "b", "p"), "one")["one"].vectors) == {"b"}
