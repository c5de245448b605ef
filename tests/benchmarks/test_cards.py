"""The benchmark of cards: turns by a clock, traffic by rank, equal work; all parts once, tiny."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.cards import forward, loading
from benchmarks.cards.__main__ import options_of
from benchmarks.cards.forward import heads, mixed
from benchmarks.cards.loading import come_and_go
from benchmarks.cards.material import Texts, plain_card, wide_card
from benchmarks.cards.registered import registered, zipf
from benchmarks.cards.stored import stored
from benchmarks.cards.turns import CardsError, Turns, cosine, within
from demo.domain import Pair
from lora.engine import ArrowEngine

PAIRS = tuple(
    Pair(f"m.f{n}", f"Return the {n} th word of a {n * 7 % 5} line.", f"m.f{n}(text, *, at={n})")
    for n in range(12)
)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    monkeypatch.setattr("benchmarks.cards.material.domain.pairs", lambda: PAIRS)
    return Texts(1)


@pytest.fixture
def engine(tiny_folder: Path) -> ArrowEngine:
    return ArrowEngine(tiny_folder, device="cpu")


def ticking() -> Iterator[float]:
    yield from itertools.count(0.0, 1.0)


@pytest.fixture
def turns() -> Turns:
    """A clock that says a second more each time it is looked at: what was measured is the same
    everywhere."""
    ticks = ticking()
    return Turns(2, lambda: next(ticks), Console(quiet=True))


def test_a_contestant_is_warmed_then_measured_in_each_round(turns: Turns) -> None:
    ran: list[str] = []
    found = turns.take("x", {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, repeat=2)
    assert ran == [*"ab", *"aabb", *"bbaa"]
    assert found == {"a": [0.5, 0.5], "b": [0.5, 0.5]}


def test_traffic_is_the_same_from_the_same_seed_and_most_goes_to_few() -> None:
    chosen = zipf(100, 5000, 3)
    assert chosen == zipf(100, 5000, 3) != zipf(100, 5000, 4)
    counted = Counter(chosen)
    assert [number for number, _ in counted.most_common(2)] == [0, 1]
    assert counted[0] > 10 * counted[99]


def test_a_promise_in_milliseconds_is_met_or_missed() -> None:
    assert within("load", [20.0, 40.0, 90.0], 50.0).met is True
    assert within("load", [20.0, 60.0, 90.0], 50.0).met is False


def test_texts_differ_and_repeat_only_where_they_run_out(texts: Texts) -> None:
    assert len(set(texts.mixed(24))) == 24
    assert texts.mixed(30)[24:] == texts.mixed(6)
    assert set(texts.queries(12)) == {pair.query for pair in PAIRS}


def test_a_wide_card_has_the_size_that_was_asked_for(engine: ArrowEngine) -> None:
    card = wide_card(engine, 1)
    assert card.nbytes == pytest.approx(1e6, rel=0.1)
    assert len(card.modules) > len(plain_card(engine, 0).modules)


def test_every_part_measures_and_checks(
    engine: ArrowEngine,
    texts: Texts,
    turns: Turns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (forward, loading):  # its import alone takes longer than all of this
        monkeypatch.setattr(module, "installed", lambda: None)
    monkeypatch.setattr("benchmarks.cards.material._LEARNING_RATE", 0.1)  # a model of few numbers
    room = 2 * plain_card(engine, 0).nbytes
    parts = [
        mixed(engine, texts, tmp_path, turns, count=64, repeat=1),
        heads(engine, texts, turns, count=8, distinct=3),
        come_and_go(engine, texts, tmp_path, turns, megabytes=1),
        registered(engine, texts, tmp_path, turns, room=room, count=12, sizes=(2, 6), used=4),
        stored(engine, texts, tmp_path / "stored", turns, count=6, steps=12),
    ]
    assert [len(part.comparisons) for part in parts] == [4, 1, 6, 1, 3]
    assert all(figure.rounds in (1, 2) for part in parts for figure in part.figures)
    assert "PEFT is not installed" in parts[0].notes[0]
    assert engine.manager.statistics().cards <= len(engine.resident())


def test_a_card_that_does_nothing_is_no_card_to_measure(
    engine: ArrowEngine, texts: Texts, turns: Turns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.cards.material._LEARNING_RATE", 0.0)
    with pytest.raises(CardsError, match="learned nothing"):
        stored(engine, texts, tmp_path, turns, count=4, steps=1)


def test_the_least_cosine_counts() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert cosine(rows, rows) == 1.0
    assert cosine(rows, rows[[0, 2, 1]]) == 0.0


@pytest.mark.parametrize(
    "words",
    ["--rounds 0", "--registered 10,x", "--registered 0", "--megabytes 500", "--part all"],
    ids=str,
)
def test_options_out_of_range_are_refused(words: str) -> None:
    with pytest.raises(SystemExit):
        options_of(words.split())


def test_options_have_defaults() -> None:
    given = options_of(["--part", "heads", "--part", "stored"])
    assert (given.rounds, given.registered) == (7, [10, 1000, 10000])
    assert given.part == ["heads", "stored"]
