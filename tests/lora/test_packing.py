"""Batches by tokens, cards by budget, modules by name: the bookkeeping beside the model."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.batching import pack
from lora.errors import CardBudgetError, ConfigError, NoMatchingModuleError
from lora.matching import match_keys, normal_name, select_targets
from lora.residency import Residency

ROW = st.tuples(
    st.integers(1, 50), st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)
)


@given(st.lists(ROW, max_size=40), st.integers(1, 200), st.integers(30, 100))
def test_every_row_is_in_one_batch_with_exactly_its_cards(rows, tokens: int, room: int) -> None:
    lengths, cards = [row[0] for row in rows], [row[1] for row in rows]
    sizes = {"a": 1, "b": 5, "c": 10, "d": 14}
    batches = list(pack(lengths, cards, sizes, batch_tokens=tokens, card_bytes=room))
    assert sorted(i for batch in batches for i in batch.rows) == list(range(len(rows)))
    for batch in batches:
        assert batch.tokens == max(lengths[i] for i in batch.rows) * len(batch.rows)
        assert batch.tokens <= tokens or len(batch.rows) == 1
        assert sum(sizes[key] for key in batch.keys) <= room
        applied: dict[int, list[str]] = {i: [] for i in batch.rows}
        for span in batch.spans:
            for i in batch.rows[span.start : span.end]:
                applied[i].append(span.key)
        assert {i: sorted(keys) for i, keys in applied.items()} == {
            i: sorted(cards[i]) for i in batch.rows
        }


def test_rows_with_different_cards_share_a_batch() -> None:
    cards = [("a",), ("b",), (), ("a", "b")] * 4
    (batch,) = pack([5] * 16, cards, {"a": 1, "b": 1}, batch_tokens=100, card_bytes=10)
    assert len(batch.spans) <= 4


def test_where_the_cards_do_not_fit_each_is_needed_once() -> None:
    cards = [("a",), ("b",)] * 8
    batches = list(pack([5] * 16, cards, {"a": 6, "b": 6}, batch_tokens=1000, card_bytes=10))
    assert [sorted(batch.keys) for batch in batches] == [["a"], ["b"]]
    with pytest.raises(ConfigError):
        list(pack([1], [()], {}, batch_tokens=0, card_bytes=1))


def test_the_least_recently_used_leaves_first() -> None:
    held = Residency(10)
    assert held.admit({"a": 4}) == ()
    assert held.admit({"b": 4}) == ()
    assert held.admit({"a": 4}) == ()
    assert held.admit({"c": 4}) == ("b",)
    assert held.keys() == ("a", "c")
    assert (held.used, "b" in held) == (8, False)


def test_a_pinned_card_stays_and_too_much_at_once_changes_nothing() -> None:
    held = Residency(10)
    held.admit({"a": 4})
    held.pin("a")
    held.pin("never seen")
    assert (held.pinned, held.held, len(held)) == ({"a"}, 4, 1)
    assert held.admit({"b": 6}) == ()
    assert held.admit({"c": 6}) == ("b",)
    with pytest.raises(CardBudgetError, match="take 11 bytes"):
        held.admit({"d": 7})
    assert (held.keys(), held.room()) == (("a", "c"), 6)
    held.unpin("a")
    assert held.admit({"d": 7}) == ("c", "a")  # as if used when it was let go
    held.forget("d")
    held.forget("d")
    assert (held.used, held.held) == (0, 0)
    with pytest.raises(ConfigError):
        Residency(0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "touch", "pin", "unpin", "forget"]), st.integers(0, 5)),
        max_size=60,
    )
)
def test_the_books_are_those_of_one_who_counts_anew_each_time(steps) -> None:
    """Against a list that is searched: last used, last; pinned, never given away."""
    sizes = {f"k{n}": 2 + n for n in range(6)}
    held, order, pinned = Residency(15), list[str](), set[str]()
    for what, number in steps:
        key = f"k{number}"
        if what == "admit":
            total = sum(sizes[k] for k in pinned | {key})
            if total > 15:
                with pytest.raises(CardBudgetError):
                    held.admit({key: sizes[key]})
                continue
            order = [k for k in order if k != key] + [key]
            leaving = []
            for other in [k for k in order if k != key and k not in pinned]:
                if sum(sizes[k] for k in order if k not in leaving) > 15:
                    leaving.append(other)
            order = [k for k in order if k not in leaving]
            assert held.admit({key: sizes[key]}) == tuple(leaving)
        elif what == "touch":
            held.touch(key)
            order = [k for k in order if k != key] + ([key] if key in order else [])
        elif what == "pin":
            held.pin(key)
            pinned |= {key} & set(order)
        elif what == "unpin":
            held.unpin(key)
            order = [k for k in order if k != key or k not in pinned] + [key] * (key in pinned)
            pinned.discard(key)
        else:
            held.forget(key)
            order = [k for k in order if k != key]
            pinned.discard(key)
        assert set(held.keys()) == set(order)
        assert [k for k in list(held.keys()) if k not in pinned] == [
            k for k in order if k not in pinned
        ]
        assert held.used == sum(sizes[k] for k in order) <= 15
        assert held.held == sum(sizes[k] for k in pinned)
        assert held.pinned == pinned


MODULES = [f"encoder.layer.{i}.attention.self.{n}" for i in range(2) for n in ("query", "value")]


def test_keys_match_exactly_then_by_suffix_then_by_normal_name(caplog) -> None:
    caplog.set_level(logging.INFO, "lora.matching")
    keys = [
        MODULES[0],
        "layer.0.attention.self.value",
        "base_model.model.encoder.layers.1.attention.self.query.lora_A.weight",
        "decoder.layer.0.query",
    ]
    found = match_keys(keys, MODULES)
    assert found.pairs == {keys[0]: MODULES[0], keys[1]: MODULES[1], keys[2]: MODULES[2]}
    assert found.missing == (keys[3],)
    assert [how for _, _, how in found.loose] == ["suffix", "normalised name"]
    assert len(caplog.records) == 2


def test_an_ambiguous_key_and_a_taken_module_match_nothing() -> None:
    assert match_keys(["query"], MODULES).missing == ("query",)
    found = match_keys([MODULES[0], "model." + MODULES[0]], MODULES)
    assert found.missing == ("model." + MODULES[0],)


def test_wrappers_prefixes_are_no_part_of_a_name() -> None:
    assert normal_name("base_model.model.bert.encoder.layers.3.x.lora_B.weight") == (
        "encoder.layer.3.x"
    )
    assert normal_name("0.auto_model.encoder.layer.1.y") == "encoder.layer.1.y"


def test_targets_are_names_or_suffixes_and_an_unknown_one_is_refused() -> None:
    assert select_targets(["query"], MODULES) == [MODULES[0], MODULES[2]]
    assert select_targets([MODULES[3], "query"], MODULES) == [MODULES[0], MODULES[2], MODULES[3]]
    with pytest.raises(NoMatchingModuleError, match="'nothing'"):
        select_targets(["query", "nothing"], MODULES)
