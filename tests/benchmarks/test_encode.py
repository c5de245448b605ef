"""Encoding beside others: the same unseen texts for all, wrong vectors refused, processes of their
own; and the tiny model through one of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.encode.__main__ import options_of
from benchmarks.encode.child import Form, Task, through_the_bus
from benchmarks.encode.contestant import (
    Contestant,
    Outcome,
    _service,
    cpu_of,
    spent,
)
from benchmarks.encode.findings import report_of
from benchmarks.encode.peers import padded
from benchmarks.encode.rounds import Course, WrongVectors, least_cosine, marked
from benchmarks.encode.texts import NotEnoughTexts, Texts, standard_library
from benchmarks.kit.children import BenchError

SOURCE = '''
"""A module of few words. But of two sentences which are both long enough to be taken!

Short.
"""


class Thing:
    """One two three four five six seven."""

    def method(self, first: int, *, second: str = "x") -> None:
        """One two three four five six seven."""
'''
POOL = [f"text {number}" for number in range(60)]


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


class Told:
    """A contestant that answers at once: a text's vector is made of its letters."""

    def __init__(self, turn: float = 0.0) -> None:
        self.turn = turn
        self.given: list[tuple[Form, tuple[str, ...]]] = []

    def encode(self, texts: Sequence[str], form: Form = "list", size: int = 1) -> Outcome:
        self.given.append((form, tuple(texts)))
        vectors = np.array([self._vector(text.strip()) for text in texts], np.float32)
        each = tuple(0.001 for _ in texts) if form == "single" else ()
        return Outcome(0.5, 0.25, each, vectors)

    def _vector(self, text: str) -> list[float]:
        angle = sum(map(ord, text)) + self.turn
        return [float(np.cos(angle)), float(np.sin(angle))]


def course(fleet: Told, peers: dict[str, Told], **changed: Any) -> Course:
    given: dict[str, Any] = {
        "fleet": cast(Contestant, fleet),
        "process": os.getpid(),
        "peers": cast(dict[str, Contestant], peers),
        "texts": Texts(POOL, 1),
        "count": 8,
        "clients": 4,
        "single": 3,
        **changed,
    }
    return Course(**given)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's threads have to settle."""
    monkeypatch.setattr("benchmarks.encode.rounds.SETTLE", 0.0)


def test_texts_are_signatures_paragraphs_and_sentences_of_the_right_length(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE, "utf-8")
    (tmp_path / "broken.py").write_text("def (", "utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "module.py").write_text('"""a b c d e f g h i"""', "utf-8")

    found = standard_library(words, tmp_path)

    assert found == [
        "A module of few words. But of two sentences which are both long enough to be taken!",
        "But of two sentences which are both long enough to be taken!",
        "One two three four five six seven.",
    ]
    assert "method(self, first: int, *, second: str='x')" in standard_library(
        lambda texts: [7] * len(texts), tmp_path
    )


def test_no_text_is_given_out_twice_and_the_order_is_the_seed_s() -> None:
    texts, same, other = Texts(POOL, 1), Texts(POOL[::-1], 1), Texts(POOL, 2)

    first = texts.draw(30)
    assert first == same.draw(30) != other.draw(30)
    assert sorted(first + texts.draw(30)) == sorted(POOL)
    with pytest.raises(NotEnoughTexts, match="only 0"):
        texts.draw(1)


def test_everybody_gets_the_same_texts_in_a_round_and_others_in_the_next(unhurried: None) -> None:
    fleet, peer, engine = Told(), Told(), Told()
    run = course(fleet, {"sentence-transformers": peer, "engine": engine}, bulk=("list", "blocks"))

    run.run(2)

    lists = [texts for form, texts in peer.given if form == "list"]
    assert lists == [texts for form, texts in engine.given if form == "list"]
    assert lists == [texts for form, texts in fleet.given if form == "clients"]
    assert not set(lists[0]) & set(lists[1])
    blanked = [texts for form, texts in fleet.given if form in ("list", "blocks")]
    assert sorted(tuple(map(str.strip, texts)) for texts in blanked) == sorted(lists * 2)
    assert len({texts for texts in (*lists, *blanked)}) == 6  # no cache knows any of them
    assert run.least == pytest.approx(1.0)


def test_the_report_has_rates_differences_and_what_is_wanted(unhurried: None) -> None:
    run = course(Told(), {"sentence-transformers": Told(), "onnxruntime": Told()})
    run.run(2)

    report = report_of(run, command="c", machine={}, processes=1, notes=("said",))

    promised = [row for row in report.comparisons if row.unit == "×" and row.wanted is not None]
    assert [(row.against, row.met) for row in promised] == [
        ("sentence-transformers", False),  # as fast, where 1.4 times is wanted
        ("onnxruntime", True),
    ]
    waits = [row for row in report.comparisons if row.unit == "ms"]
    assert [row.met for row in waits if row.wanted is not None] == [True]
    assert report.figures[0].median == 16.0  # 8 texts in half a second
    assert any("share one connection" in note for note in report.notes)
    assert report.notes[-1] == "said"


def test_wrong_vectors_are_no_comparison(unhurried: None) -> None:
    run = course(Told(turn=0.1), {"sentence-transformers": Told()})

    with pytest.raises(WrongVectors, match=r"a vector of consonance has a cosine of 0\.995"):
        run.run(1)


def test_too_many_rounds_are_refused_before_the_first(unhurried: None) -> None:
    peer = Told()

    with pytest.raises(NotEnoughTexts):
        course(Told(), {"sentence-transformers": peer}).run(10)
    assert peer.given == []


def test_the_least_cosine_is_of_the_worst_row_whatever_its_length() -> None:
    assert least_cosine([[2.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]) == pytest.approx(
        0.5**0.5
    )


def test_marked_texts_differ_and_say_the_same() -> None:
    assert marked(["a", "b"], 2) == ["a  ", "b  "]


def test_rows_are_padded_behind_and_masked() -> None:
    ids, mask = padded([[5, 6, 7], [8]])

    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("form", "size", "requests", "at_once"),
    [("clients", 4, 10, 4), ("single", 1, 10, 1), ("blocks", 3, 4, 4), ("list", 1, 1, 1)],
)
def test_forms_are_so_many_requests_of_which_so_many_are_under_way(
    form: Form, size: int, requests: int, at_once: int
) -> None:
    class Client:
        asked, now, most = 0, 0, 0

        async def encode(self, texts: Sequence[str], *, route: str) -> Any:
            assert route == "base"
            self.asked += 1
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            vectors = np.array([[float(text)] for text in texts], np.float32)
            return type("Encoded", (), {"vectors": vectors})

    client = Client()
    task = Task(form=form, texts=tuple(map(str, range(10))), size=size)

    vectors = asyncio.run(through_the_bus(client)(task, []))

    assert vectors.ravel().tolist() == list(range(10))
    assert (client.asked, client.most) == (requests, at_once)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("python", "-P", "lifeline.py", "7", "services.encoder"), "encoder"),
        (("python", "-P", "lifeline.py", "7", "bus"), "broker"),
        (("python", "-P", "lifeline.py", "7", "run_all", "--json"), "supervisor"),
        (("sh",), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_process_is_known_by_what_it_runs(words: tuple[str, ...], name: str) -> None:
    assert _service(words) == name


def test_time_on_the_cpu_is_what_came_in_between() -> None:
    assert spent({"a": 1.0}, {"a": 1.5, "b": 0.25}) == {"a": 0.5, "b": 0.25}
    assert sum(cpu_of(os.getpid()).values()) > 0


@pytest.mark.parametrize(
    "words",
    [("--rounds", "0"), ("--clients", "2", "--client-processes", "3"), ("--single", "-1")],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        options_of(words)


def test_the_engine_answers_in_a_process_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    given = {"folder": str(tiny_folder), "aside": str(tmp_path)}

    with Contestant("engine", given, tmp_path / "log") as engine:
        assert engine.warm(["card"]) is None
        whole = engine.encode(["card", "loan", "fee"])
        alone = engine.encode(["card", "loan"], "single")

    assert whole.vectors.shape[0] == 3
    assert least_cosine(alone.vectors, whole.vectors[:2]) > 0.9999
    assert len(alone.each) == 2
    assert whole.seconds >= 0


def test_a_contestant_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nobody ended with 1 and said: KeyError: 'nobody'"):
        Contestant("nobody", {"folder": "x", "aside": "x"}, tmp_path / "log")
