"""The domain: fixed, clean, and split so that nothing held out was ever given."""

import sys

import pytest

from demo.domain import Pair, pairs, split


@pytest.fixture(scope="module")
def found() -> tuple[Pair, ...]:
    return pairs()


def test_it_is_large_and_nothing_in_it_is_there_twice(found: tuple[Pair, ...]) -> None:
    assert len(found) > 2_500
    for texts in (
        [pair.name for pair in found],
        [pair.passage for pair in found],
        [pair.query.casefold() for pair in found],
    ):
        assert len(set(texts)) == len(texts)


def test_a_passage_is_a_signature_and_holds_no_docstring(found: tuple[Pair, ...]) -> None:
    by_name = {pair.name: pair for pair in found}

    assert by_name["json.dumps"].passage.startswith("json.dumps(obj, *, skipkeys=False,")
    assert by_name["json.dumps"].query.startswith("Serialize ``obj`` to a JSON formatted")
    assert all(pair.passage.startswith(f"{pair.name}(") for pair in found)
    assert all(pair.query not in pair.passage for pair in found)


def test_two_walks_find_the_same(found: tuple[Pair, ...]) -> None:
    assert pairs() == found


def test_only_the_standard_library_is_read(found: tuple[Pair, ...]) -> None:
    assert {pair.name.split(".")[0] for pair in found} <= sys.stdlib_module_names


def test_the_walk_imports_nothing_into_this_process() -> None:
    before = set(sys.modules)
    pairs()
    assert not {"turtle", "tkinter", "antigravity", "this"} & (set(sys.modules) - before)


def test_the_split_shares_no_function_and_ignores_the_order(found: tuple[Pair, ...]) -> None:
    halves = split(found)

    assert not set(halves.feedback) & set(halves.held_out)
    assert set(halves.feedback) | set(halves.held_out) == set(found)
    assert 0.45 < len(halves.feedback) / len(found) < 0.55
    assert split(tuple(reversed(found))) == halves
