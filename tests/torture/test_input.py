"""The short form of the torture by bad input, and what the long form relies on."""

from __future__ import annotations

import importlib.util
import signal
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests.torture.input import http, sockets
from tests.torture.input.runner import TARGETS, examples, fuzzed, replay
from tests.torture.input.target import Slow, Target, hold, silence, within

by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
CASES = [(target, case) for target in TARGETS for case in target.cases()]


@pytest.mark.parametrize(
    ("target", "case"), CASES, ids=[f"{target.name}-{case.name}" for target, case in CASES]
)
def test_what_once_broke_a_promise_does_so_no_more(target: Target, case: Path) -> None:
    with silence():
        assert replay(target, case.read_bytes()) == ""


@by_name
def test_the_seeds_are_sound(target: Target) -> None:
    with silence():
        taken = [target.check(seed) for seed in target.seeds()]
    assert sum(taken) >= len(taken) * 2 / 3  # some are there for their refusal


@by_name
def test_what_is_nearly_right_breaks_nothing(target: Target) -> None:
    with silence():
        tried, found = examples(target, 20, None)
    assert found == ""
    assert tried >= 20


def test_a_broker_on_real_sockets_survives() -> None:
    assert sockets.exchanged(100, Random(1)) >= 100


def test_the_api_answers_as_its_document_says() -> None:
    from tests.torture.input.documented import asked

    with http.served() as url:
        calls, found = asked(url, 2, None, only={"embed", "give_feedback"})
        http.knocked(url, 10, Random(1))
    assert found == []
    assert calls >= 4


def test_a_broken_promise_is_found_and_shown() -> None:
    def check(data: bytes) -> bool:
        hold(b"x" not in data, "there is an x in it")
        return True

    target = Target(
        name="x",
        about="no x",
        seeds=lambda: [b"abc"],
        mutate=lambda data, random: data + random.choice([b"", b"y", b"x"]),
        check=check,
    )
    _, found = examples(target, 50, None)
    assert found.startswith("x: Broken at target.py")
    assert "there is an x in it" in found
    assert examples(replace(target, seeds=lambda: [b"y"], mutate=lambda d, _: d), 5, None)[1] == ""


def test_what_takes_too_long_is_found() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Slow, match="not done within 1 s"), within(1):
        threading.Event().wait(30)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
def test_the_fuzzer_runs_by_itself() -> None:
    target = next(target for target in TARGETS if target.name == "events")
    found = fuzzed(target, 30, 1, runs=300)
    assert found.broken == ""
    assert found.executions >= 300
    assert found.corpus > 5
