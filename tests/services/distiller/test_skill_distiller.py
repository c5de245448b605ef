"""What enters a dataset, and what teachers cannot do to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.training.dataset import FEEDBACK
from lora.training.folds import fold_of, group_of
from lora.training.gate import Arena
from services.distiller.mining import CERTAIN, MINED
from services.distiller.teacher import Contribution, Kind, Pair
from services.distiller.trust import quality
from services.runtime.settings import DistillerSettings
from tests.services.distiller.material import distilled, dropped, labels_of
from tests.services.factory.fakes import vector

HERON, OWL, SWIFT = "herons stand in reeds", "owls hunt mice at night", "swifts sleep in the air"
WREN, GULL, TERN = "wrens build round nests", "gulls follow ships", "terns dive for fish"
WHERE, WHAT = "where do herons stand", "what do owls hunt"
SAID = {WHERE: {HERON: 1.0, OWL: 0.0}, WHAT: {OWL: 1.0, SWIFT: 0.0}, "birds": {WREN: 0.0}}
MANY = SAID | {"who follows ships": {GULL: 1.0}, "who dives for fish": {TERN: 1.0}}
PARAPHRASE = "in which place do the herons stand"


def taught(*pairs: Pair, **vectors: np.ndarray) -> Contribution:
    return Contribution(pairs, vectors)


def test_feedback_alone_is_what_people_said_and_mined_negatives() -> None:
    found = distilled(MANY, rules=DistillerSettings(hard_negatives=2))
    data = found.data

    people = {pair: told for pair, told in labels_of(data).items() if told[1] == FEEDBACK}
    assert people == {
        (query, passage): (value, FEEDBACK)
        for query, labels in MANY.items()
        for passage, value in labels.items()
        if query != "birds"
    }
    assert (data.weights == 1).all()
    assert found.learnable == set(MANY) - {"birds"}
    assert data.metadata["dropped.without_relevant"] == "1"
    assert found.sources["batch"] == 2
    assert found.sources["replay"] == 4
    assert found.sources[MINED] == data.sources()[MINED] > 0


def test_a_paraphrase_stands_in_the_fold_of_its_origin_with_its_quality_as_weight() -> None:
    found = distilled(SAID, taught(Pair(PARAPHRASE, HERON, 1.0, "paraphrase", WHERE)))
    data = found.data

    row, origin = data.queries.index(PARAPHRASE), data.queries.index(WHERE)
    assert (data.groups[row], data.folds[row]) == (data.groups[origin], data.folds[origin])
    assert data.weights[row] == 1.0  # it finds its passage first
    assert not data.real[row]
    assert PARAPHRASE not in found.learnable
    assert found.sources["one.paraphrase"] == 1
    assert data.metadata["kept.one.paraphrase"] == "1"


def test_a_question_made_from_a_passage_alone_has_a_fold_of_its_own() -> None:
    question = "is it true that swifts sleep while flying"
    data = distilled(SAID, taught(Pair(question, SWIFT, 1.0, "question"))).data

    row = data.queries.index(question)
    assert data.groups[row] == group_of(question)
    assert data.folds[row] == fold_of(group_of(question))


def test_a_question_written_with_examples_in_sight_lies_in_their_fold() -> None:
    """In a group of its own: the example's passages are not relevant to it."""
    question = "is it true that swifts sleep while flying"
    other = next(query for query in SAID if fold_of(group_of(query)) != fold_of(group_of(question)))
    data = distilled(SAID, taught(Pair(question, SWIFT, 1.0, "question", other))).data

    row = data.queries.index(question)
    assert data.groups[row] == group_of(question)
    assert data.folds[row] == fold_of(group_of(other))


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (Pair(" ", HERON, 1.0, "question"), "empty"),
        (Pair("q " * 4000, HERON, 1.0, "question"), "too_long"),
        (Pair(HERON.upper() + "!", HERON, 1.0, "question"), "identical"),
        (Pair("who", "never heard of", 1.0, "question"), "unknown_passage"),
        (Pair("who", HERON, 1.0, "paraphrase"), "unknown_origin"),
        (Pair("who", HERON, 1.0, "paraphrase", "nobody asked"), "unknown_origin"),
        (Pair("nobody asked", HERON, 1.0, "grade"), "unknown_origin"),
        (Pair(PARAPHRASE, HERON, 1.5, "question"), "value"),
        (Pair(PARAPHRASE, HERON, float("nan"), "question"), "value"),
        (Pair(WHERE, "written", 1.0, "hard_negative", WHERE), "value"),
        (Pair("birds", "written", 0.0, "answer", "birds"), "value"),
        (Pair(WHERE.upper() + "?", OWL, 1.0, "question", WHERE), "near_duplicate"),
        (Pair(WHERE, HERON, 0.5, "grade", WHERE), "said_by_people"),
        (Pair("birds", WREN, 1.0, "grade", "birds"), "said_by_people"),
        (Pair("birds", OWL, 0.2, "grade", "birds"), "no_positive"),
        (Pair("birds", "written", 0.0, "hard_negative", "birds"), "no_positive"),
        (Pair(WHERE, WREN, 1.0, "grade", WHAT), "leak"),
        (Pair(WHERE, "in reeds stand herons", 0.0, "hard_negative", WHERE), "likely_relevant"),
    ],
)
def test_what_is_dropped_is_counted_by_why_and_leaves_no_trace(pair: Pair, why: str) -> None:
    plain, found = distilled(SAID), distilled(SAID, taught(pair))

    assert dropped(found.data) == {why: 1}
    assert found.data.queries == plain.data.queries
    assert labels_of(found.data) == labels_of(plain.data)
    assert found.sources == plain.sources


def test_a_query_near_to_another_fold_s_is_a_leak_and_to_its_own_a_duplicate() -> None:
    """The same words in another order: the base model cannot tell them apart."""
    turned = "herons stand do where"
    of_what = distilled(SAID, taught(Pair(turned, OWL, 1.0, "paraphrase", WHAT)))
    of_where = distilled(SAID, taught(Pair(turned, HERON, 1.0, "paraphrase", WHERE)))

    assert fold_of(group_of(WHERE)) != fold_of(group_of(WHAT))
    assert dropped(of_what.data) == {"leak": 1}
    assert dropped(of_where.data) == {"near_duplicate": 1}


def test_a_question_that_two_folds_bring_forth_keeps_the_labels_of_one() -> None:
    pairs = (
        Pair("what do birds do", HERON, 1.0, "paraphrase", WHERE),
        Pair("what do birds do", OWL, 1.0, "paraphrase", WHAT),
    )
    data = distilled(SAID, taught(*pairs)).data

    assert dropped(data) == {"leak": 1}
    told = {pair for pair, (_, source) in labels_of(data).items() if source == "one.paraphrase"}
    assert told == {("what do birds do", HERON)}
    assert data.folds[data.queries.index("what do birds do")] == fold_of(group_of(WHERE))


def test_of_near_duplicates_among_what_was_generated_the_best_stays() -> None:
    found = distilled(
        MANY,
        taught(
            Pair("ships gulls follow", GULL, 0.6, "question"),
            Pair("gulls ships follow", GULL, 1.0, "question"),
            Pair("follow gulls ships", GULL, 0.7, "question"),
        ),
    )

    assert "gulls ships follow" in found.data.queries
    assert dropped(found.data) == {"near_duplicate": 2}


def test_a_question_must_find_its_passage_again() -> None:
    lost = Pair("gulls that follow ships", HERON, 1.0, "question")
    rules = DistillerSettings(round_trip=1)

    assert dropped(distilled(MANY, taught(lost), rules=rules).data) == {"round_trip": 1}
    assert dropped(distilled(MANY, taught(lost)).data) == {}


def test_a_paraphrase_may_rank_its_passage_as_low_as_its_origin_does() -> None:
    """That the base model ranks it too low is why somebody complained."""
    said = MANY | {"night mice hunt at who": {GULL: 1.0}}
    pair = Pair("tell me at night who hunts mice", GULL, 1.0, "paraphrase", list(said)[-1])
    rules = DistillerSettings(round_trip=1, hard_negatives=0)

    assert dropped(distilled(said, taught(pair), rules=rules).data) == {}


def test_the_teacher_s_own_vectors_decide_where_it_has_them() -> None:
    """Given a teacher to whom the question and its passage are one."""
    question = "gulls that follow ships"
    pair = Pair(question, HERON, 1.0, "question")
    rules = DistillerSettings(round_trip=1)
    seen = {text: vector(text) for text in (HERON, OWL, SWIFT, WREN, GULL, TERN)}
    seen[question] = vector(HERON)

    sure = distilled(MANY, Contribution((pair,), seen), rules=rules)
    blind = distilled(
        MANY, Contribution((pair,), {t: seen[t] for t in (question, HERON)}), rules=rules
    )

    assert question in sure.data.queries
    assert question not in blind.data.queries  # two passages of six are too few to rank among


def test_quality_is_the_claim_discounted_by_the_rank() -> None:
    assert quality(1.0, 1) == 1.0
    assert quality(0.5, 1) == 0.5
    assert quality(1.0, 3) == 0.5
    assert quality(1.0, 9, 9) == 1.0
    assert quality(1.0, 4, 2) == 0.5


def test_people_s_word_holds_against_any_teacher() -> None:
    pairs = (
        Pair(WHERE, HERON, 0.0, "grade", WHERE),
        Pair(WHERE, OWL, 1.0, "grade", WHERE),
        Pair(WHERE, HERON, 0.0, "hard_negative", WHERE),
    )
    found = labels_of(distilled(SAID, taught(*pairs)).data)

    assert found[WHERE, HERON] == (1.0, FEEDBACK)
    assert found[WHERE, OWL] == (0.0, FEEDBACK)


def test_grades_are_soft_labels_of_known_passages_and_never_certain() -> None:
    pairs = [Pair(WHERE, text, v, "grade", WHERE) for text, v in ((SWIFT, 1.0), (WREN, 0.4))]
    found = labels_of(distilled(SAID, taught(*pairs)).data)

    assert found[WHERE, SWIFT] == (pytest.approx(CERTAIN), "one.grade")
    assert found[WHERE, WREN] == (pytest.approx(0.4), "one.grade")


def test_an_answer_makes_a_novel_prompt_learnable_but_nothing_to_judge_by() -> None:
    answer = "birds are feathered"
    found = distilled(SAID, taught(Pair("birds", answer, 1.0, "answer", "birds")))
    data = found.data

    row, column = data.queries.index("birds"), data.passages.index(answer)
    assert "birds" in found.learnable
    assert data.passage_sources[column] == "one.answer"
    assert labels_of(data)["birds", answer] == (pytest.approx(CERTAIN), "one.answer")
    assert 0 < data.weights[row] <= 1
    assert not data.real[row]
    assert Arena(data).passages.shape[0] == len(data.passages) - 1


def test_a_written_hard_negative_is_a_passage_to_train_over() -> None:
    text = "where herons are never seen"
    data = distilled(SAID, taught(Pair(WHERE, text, 0.0, "hard_negative", WHERE))).data

    assert data.passage_sources[data.passages.index(text)] == "one.hard_negative"
    assert labels_of(data)[WHERE, text] == (0.0, "one.hard_negative")


def test_a_written_passage_that_its_own_teacher_finds_relevant_is_no_negative() -> None:
    text = "where herons are never seen"
    pair = Pair(WHERE, text, 0.0, "hard_negative", WHERE)
    seen = {WHERE: vector(HERON), HERON: vector(HERON), text: vector(HERON)}

    assert dropped(distilled(SAID, Contribution((pair,), seen)).data) == {"likely_relevant": 1}


def test_soft_labels_normalised_are_the_teacher_s_softmax() -> None:
    """Of a query whose positive the teacher too ranks first."""
    texts = (HERON, OWL, SWIFT, WREN, GULL, TERN, WHERE)
    generator = np.random.default_rng(3)
    seen = {text: generator.normal(size=8).astype(np.float32) for text in texts}
    seen[HERON] = seen[WHERE] + 0.01 * seen[OWL]
    rules = DistillerSettings(soft_labels=5, soft_temperature=0.2, hard_negatives=0)
    found = labels_of(distilled(MANY, Contribution((), seen), rules=rules).data)

    values = {
        p: v for (q, p), (v, source) in found.items() if q == WHERE and source == "one.vectors"
    }
    unit = {text: value / np.linalg.norm(value) for text, value in seen.items()}
    odds = {p: np.exp(unit[WHERE] @ unit[p] / 0.2) for p in (HERON, *values)}
    expected = {p: odds[p] / odds[HERON] for p in values}
    assert set(values) <= {SWIFT, WREN, GULL, TERN}
    assert values == pytest.approx(expected, abs=2e-3)
    assert all(0 < value < 1 for value in values.values())


def test_no_passage_that_a_teacher_finds_as_similar_as_the_positive_is_mined() -> None:
    texts = (HERON, OWL, SWIFT, WREN, GULL, TERN)
    seen = {text: vector(text) for text in texts} | {WHERE: vector(HERON)}
    seen[TERN] = vector(HERON) + 0.2 * vector(TERN)
    rules = DistillerSettings(hard_negatives=6, soft_labels=0)

    mined = {
        passage
        for (query, passage), (_, source) in labels_of(
            distilled(MANY, Contribution((), seen), rules=rules).data
        ).items()
        if query == WHERE and source == MINED
    }

    assert mined
    assert TERN not in mined


KINDS: tuple[Kind, ...] = ("paraphrase", "question", "answer", "hard_negative", "grade")
POOL = [*MANY, PARAPHRASE, "herons stand do where", "which birds hunt", "", "who dives"]
PASSAGES = [HERON, OWL, SWIFT, WREN, GULL, TERN, "a passage that was written", "gulls ships", ""]
PAIRS = st.builds(
    Pair,
    st.sampled_from(POOL),
    st.sampled_from(PASSAGES),
    st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, float("nan")]),
    st.sampled_from(KINDS),
    st.none() | st.sampled_from(POOL),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIRS, max_size=12), st.lists(PAIRS, max_size=6), st.booleans(), st.booleans())
def test_whatever_teachers_say(
    first: list[Pair], second: list[Pair], seeing: bool, strict: bool
) -> None:
    """Every pair is kept or counted; people's labels, folds and the gate's ranks stay."""
    texts = [text for text in (*POOL, *PASSAGES) if text]
    generator = np.random.default_rng(5)
    seen = {text: generator.normal(size=6).astype(np.float32) for text in texts if seeing}
    rules = DistillerSettings(round_trip=1 if strict else 10)
    plain = distilled(MANY, rules=rules)
    found = distilled(
        MANY, Contribution(tuple(first), seen), Contribution(tuple(second)), rules=rules
    )
    data, labels = found.data, labels_of(found.data)

    assert len(labels) == len(data.label_source)  # one label for each pair
    people = {pair: told for pair, told in labels.items() if told[1] == FEEDBACK}
    own = {pair: t for pair, t in labels_of(plain.data).items() if t[1] == FEEDBACK}
    assert {pair: people[pair] for pair in own} == own
    kept = sum(
        count
        for source, count in data.sources().items()
        if source.startswith(("one.", "two.")) and source != "one.vectors"
    )
    assert kept + sum(dropped(data).values()) == len(first) + len(second)
    assert sum(found.sources.values()) == len(data.label_source)

    fold = dict(zip(data.queries, data.folds.tolist(), strict=True))
    for text in set(data.queries) - set(MANY):
        assert 0 < data.weights[data.queries.index(text)] <= 1
        for asked in set(MANY) & set(data.queries):
            near = vector(text) @ vector(asked) >= rules.near_duplicate
            assert not near, "neither a leak nor a duplicate"
    folds = {text: fold_of(group_of(text)) for text in MANY}
    for (text, passage), (_, source) in labels.items():
        if source.startswith(("one.", "two.")) and source != "one.vectors":
            origins = [
                folds.get(pair.origin or "", fold[text])
                for pair in (*first, *second)
                if (pair.query, pair.passage, pair.kind) == (text, passage, source[4:])
            ]
            assert fold[text] in origins, "what comes of a query stays in its fold"
    for query in MANY:
        assert fold.get(query, fold_of(group_of(query))) == fold_of(group_of(query))

    before, after = Arena(plain.data), Arena(data)
    turn = generator.normal(size=(48, 48))
    order = [plain.data.queries[row] for row in before.rows]
    assert [data.queries[row] for row in after.rows] == order
    bent = np.stack([vector(text) for text in order]) @ turn
    assert after.ranks(bent).tolist() == before.ranks(bent).tolist()
