"""What is asked, and what answers mean: properties of the pure part."""

import email.utils
import time
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.distiller.cloud.asks import CLIP, HIGHEST, ITEMS, SENT, STYLES, Ask, plan
from services.distiller.cloud.errors import MalformedError
from services.distiller.cloud.failures import retry_after
from services.distiller.cloud.schema import Graded, Written, strict_schema
from services.distiller.teacher import Asked, Material
from services.runtime.settings import TeacherSettings
from tests.standin.strict import complaint

texts = st.text(max_size=40)
queries = st.builds(
    Asked,
    text=texts,
    relevant=st.lists(texts, max_size=2).map(tuple),
    near=st.lists(texts, max_size=12).map(tuple),
    novel=st.booleans(),
    fold=st.none() | st.integers(0, 4),
)
materials = st.builds(
    Material,
    domain=st.just("birds"),
    queries=st.lists(queries, max_size=30).map(tuple),
    passages=st.lists(texts, max_size=40).map(tuple),
)
SETTINGS = TeacherSettings(model="m", questions_per_passage=4, hard_negatives=2)


def asks(material: Material) -> list[Ask]:
    return plan(material, SETTINGS)


@settings(max_examples=40)
@given(materials)
def test_requests_are_bounded_and_the_strict_server_takes_them(material: Material) -> None:
    for ask in asks(material):
        body = ask.body("m", SETTINGS.output_tokens)
        assert complaint(body) is None
        assert 1 <= len(ask.items) <= ITEMS
        assert msgspec.json.decode(body["messages"][-1]["content"])["task"] == ask.task.name


def test_long_texts_are_clipped_and_stand_apart() -> None:
    material = Material("birds", (), tuple(f"{number}" + "x" * 50_000 for number in range(9)))

    found = asks(material)
    assert len(found) == 3
    for ask in found:
        assert len(ask.body("m", 4096)["messages"][-1]["content"]) < SENT + 1000
        assert all(len(item.shown["passage"]) == CLIP for item in ask.items)
    (pair,) = found[0].items[0].pairs(["why"])
    assert pair.passage == material.passages[0]  # the whole of it


@settings(max_examples=40)
@given(materials, st.integers(0, 40), st.integers(0, 30))
def test_more_material_makes_the_same_requests_but_for_the_last(
    material: Material, passages: int, asked: int
) -> None:
    """Else what was answered before would be paid for again."""
    rules = TeacherSettings(model="m", answers=False)
    asked = max(asked, min(STYLES, len(material.queries)))  # the first ones are the examples
    less = Material("birds", material.queries[:asked], material.passages[:passages])
    before = [ask.body("m", 4096) for ask in plan(less, rules)]
    after = [ask.body("m", 4096) for ask in plan(material, rules)]
    kinds = {(ask.task.name, str(ask.context)) for ask in plan(less, rules)}
    assert len([body for body in before if body not in after]) <= len(kinds)


@settings(max_examples=40)
@given(materials, st.integers(1, 9))
def test_a_question_is_written_with_queries_of_one_fold_in_sight_and_derives_from_one(
    material: Material, count: int
) -> None:
    """Else it would carry what is asked in one fold into the training of all others."""
    distinct = dict.fromkeys(query.text for query in material.queries)
    material = replace(
        material, queries=tuple(Asked(text, fold=at % 4) for at, text in enumerate(distinct))
    )
    folds = {query.text: query.fold for query in material.queries}
    wanted = Counter[str]()
    for ask in plan(material, TeacherSettings(model="m", questions_per_passage=count)):
        shown = ask.context["examples"]
        assert len({folds[text] for text in shown}) <= 1
        for item in ask.items:
            (pair,) = item.pairs(["why"])
            assert pair.origin == (shown[0] if shown else None)
            wanted[pair.passage] += item.wanted
            assert item.wanted == ask.context["count"]
    assert wanted == {text: count * times for text, times in Counter(material.passages).items()}


@settings(max_examples=40)
@given(materials, st.data())
def test_whatever_is_answered_it_means_pairs_or_nothing(
    material: Material, data: st.DataObject
) -> None:
    for ask in asks(material)[:4]:
        items = st.fixed_dictionaries(
            {"id": st.integers(-1, 20)},
            optional={
                "texts": st.lists(texts, max_size=6),
                "grades": st.lists(st.integers(-1, 4), max_size=12),
            },
        )
        reply = data.draw(st.fixed_dictionaries({"items": st.lists(items, max_size=6)}) | texts)
        content = reply if isinstance(reply, str) else msgspec.json.encode(reply).decode()
        try:
            pairs, missing = ask.read(content)
        except MalformedError:
            continue
        assert 0 <= missing < len(ask.items)
        known = {query.text for query in material.queries}
        for pair in pairs:
            assert 0 <= pair.value <= 1
            assert pair.query.strip() or pair.origin == pair.query
            assert pair.origin is None or pair.origin in known
            if pair.kind in ("question", "paraphrase"):
                assert pair.passage in {
                    *material.passages,
                    *(p for q in material.queries for p in q.relevant),
                }


def test_grades_become_soft_labels_in_the_order_of_the_passages() -> None:
    material = Material("birds", (Asked("q", near=("a", "b", "c")),), ())
    (ask,) = asks(material)

    pairs, _ = ask.read('{"items": [{"id": 0, "grades": [3, 0, 2]}]}')
    assert [(pair.passage, pair.value) for pair in pairs] == [
        ("a", 1.0),
        ("b", 0.0),
        ("c", 2 / HIGHEST),
    ]
    for grades in ("[3, 0]", "[3, 0, 2, 1]", "[3, 0, 4]", '[3, 0, "2"]'):
        with pytest.raises(MalformedError):
            ask.read(f'{{"items": [{{"id": 0, "grades": {grades}}}]}}')


@settings(max_examples=40)
@given(materials)
def test_halves_hold_every_item_once(material: Material) -> None:
    for ask in asks(material):
        halves = ask.halves()
        assert bool(halves) == (len(ask.items) > 1)
        if halves:
            assert halves[0].items + halves[1].items == ask.items


@pytest.mark.parametrize("kind", [Written, Graded])
def test_schemas_refer_to_nothing_outside(kind: type[msgspec.Struct]) -> None:
    schema = strict_schema(kind)
    assert "$" not in str(schema)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_a_date_is_until_then() -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(100, abs=30)
