"""What others say of their skills is checked: they answer where nothing of ours is near."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora import LoRARouter
from lora.authors import Edition, foremost, moment
from lora.errors import CardInvalidError
from lora.neighbours import beside_key, stacks_key
from tests.lora.cards import adapter
from tests.lora.cards import card as made
from tests.lora.test_decide import at, card, names

FLOOR = 0.5


def answer(router: LoRARouter, degrees: float, **options: Any) -> list[str]:
    (found,) = router.decide(at(degrees), **options)
    return [match.digest for match in found.matches]


def foreign(router: LoRARouter, it: Any, author: str = "anne") -> None:
    router.register_card(it, floor=FLOOR, author=author)


def virtual(router: LoRARouter, name: str, *degrees: float, digit: str = "f", **more: Any) -> str:
    digest = "sha256:" + digit * 64
    points = np.concatenate([at(it) for it in degrees])
    router.register_virtual_candidate(
        name, digest, points, **{"threshold": -1.0, "floor": FLOOR, **more}
    )
    return digest


@pytest.mark.parametrize("installed", [True, False])
def test_a_prototype_equal_to_one_of_ours_silences_the_whole_card(installed: bool) -> None:
    router = LoRARouter(2)
    ours = card("ours", 0)
    router.register_card(ours)
    points = np.concatenate([at(0), at(120)])
    if installed:
        foreign(router, card("theirs", 0, prototypes=points, threshold=-1.0))
    else:
        router.register_virtual_candidate("theirs", "sha256:" + "f" * 64, points, threshold=-1.0)
    for degrees in range(-180, 180, 15):
        assert "theirs" not in names(router, degrees)[0]
    assert answer(router, 0) == [ours.key]
    router.remove_card(ours.key)
    assert names(router, 120)[0] == ["theirs"], "where ours is gone there is nothing to steal"


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_theirs_answers_only_nearer_to_it_than_anything_of_ours_is(first: str) -> None:
    router = LoRARouter(2)
    steps = [
        lambda: router.register_card(card("ours", 0)),
        lambda: foreign(router, card("theirs", 40, threshold=-1.0)),
    ]
    for step in steps if first == "ours" else steps[::-1]:
        step()
    assert names(router, 0) == (["ours"], None)
    assert names(router, 79)[0] == ["theirs"]
    assert names(router, 81) == ([], "below_threshold"), "40 degrees away is too far"


@pytest.mark.parametrize("installed", [True, False])
def test_where_theirs_would_be_a_guess_ours_answers_however_far_it_is(installed: bool) -> None:
    router = LoRARouter(2)
    strict = card("strict", 44, threshold=0.9999)
    router.register_card(strict)
    router.register_card(card("ours", 0, metrics={beside_key("strict"): 0.0}))
    if installed:
        foreign(router, card("theirs", 40, threshold=-1.0))
    else:
        virtual(router, "theirs", 40)
    assert names(router, 41) == (["theirs"], None)
    assert names(router, 42.5) == (["ours"], None), "silent, and nearer than theirs"


def test_of_two_foreign_skills_the_one_installed_later_keeps_away() -> None:
    router = LoRARouter(2)
    foreign(router, card("first", 0, threshold=-1.0))
    foreign(router, card("later", 40, threshold=-1.0), "bert")
    assert names(router, -55)[0] == ["first"], "down to the floor"
    assert names(router, 85) == ([], "below_threshold")
    virtual(router, "offered", 50)
    assert names(router, 100) == ([], "below_threshold"), "10 degrees from one that is here"
    foreign(router, card("first", 0, threshold=-1.0))
    assert names(router, -55)[0] == ["first"], "told again it is still the first"


def test_an_own_card_goes_before_all_others_of_its_name() -> None:
    router = LoRARouter(2)
    theirs = card("law", 90, version=9, digest="sha256:" + "1" * 64)
    foreign(router, theirs)
    virtual(router, "law", 200, version=12)
    assert answer(router, 90) == [theirs.key]
    assert answer(router, 200) == []
    ours = card("law", 0)
    router.register_card(ours)
    assert router.routed() == [ours.key]
    assert answer(router, 90) == []
    router.register_card(card("law", 0, version=2, threshold=None, digest="sha256:" + "2" * 64))
    assert router.empty, "one for named use only hides the others too"
    router.remove_card("sha256:" + "2" * 64)
    router.remove_card(ours.key)
    assert answer(router, 90) == [theirs.key]


def test_a_newer_version_on_offer_does_not_displace_what_is_installed() -> None:
    router = LoRARouter(2)
    foreign(router, card("law", 0, version=1), "anne")
    virtual(router, "law", 90, version=2, author="anne")
    assert names(router, 0)[0] == ["law"]
    assert names(router, 90) == ([], "below_threshold")


def test_of_several_offers_of_one_name_the_one_made_last_stands_in() -> None:
    router = LoRARouter(2)
    virtual(router, "law", 0, digit="1", author="anne", version=9, created="2026-01-01T00:00:00Z")
    late = virtual(
        router, "law", 90, digit="2", author="bert", version=1, created="2026-02-01T00:00:00Z"
    )
    assert router.routed() == [late]
    older = virtual(
        router, "law", 90, digit="3", author="bert", version=2, created="2025-02-01T00:00:00Z"
    )
    assert router.routed() == ["sha256:" + "1" * 64], "bert's newest is his version 2"
    router.remove_card(older)
    assert router.routed() == [late]


def test_what_is_installed_of_others_is_no_rival_of_ours() -> None:
    router = LoRARouter(2)
    router.register_card(card("ours", 0))
    foreign(router, card("strict", 10, threshold=0.9999))
    assert names(router, 9) == (["ours"], None), "nearer and silent"
    foreign(router, card("theirs", 40))
    assert names(router, 21) == (["ours"], None), "about as near"
    assert names(router, 40) == (["theirs"], None)


def test_ours_and_an_offer_keep_one_from_elsewhere_from_answering_by_a_guess() -> None:
    router = LoRARouter(2)
    router.register_card(card("ours", 0, threshold=0.999))
    foreign(router, card("theirs", 60))
    assert names(router, 20) == ([], "ambiguous"), "ours is nearer and does not answer"
    foreign(router, card("other", 90))
    assert names(router, 75) == ([], "ambiguous")
    virtual(router, "offered", 150)
    assert names(router, 130)[0] == ["offered"]
    assert names(router, 118) == (["other"], None)


def test_evidence_that_was_measured_elsewhere_is_not_believed() -> None:
    """The same claims, of ours, decide and stack."""
    near = card("near", 15)
    claims = {beside_key("near"): 0.0, stacks_key(near.key): 0.5}
    for author, expected in ((None, ["far", "near"]), ("anne", [])):
        router = LoRARouter(2)
        router.register_card(near, author="bert" if author else None)
        far = card("far", 0, metrics=claims, threshold=0.9)
        router.register_card(far, author=author)
        (found,) = router.decide(at(7), 3)
        assert [match.name for match in found.matches] == expected, author


def test_ours_may_stack_theirs_upon_itself_where_that_was_measured_here() -> None:
    theirs = card("theirs", 60)
    router = LoRARouter(2)
    router.register_card(card("ours", 0, metrics={stacks_key(theirs.key): 0.1}))
    foreign(router, theirs)
    (found,) = router.decide(at(29), 2)
    assert [match.name for match in found.matches] == ["ours", "theirs"]


def test_anothers_card_without_prototypes_is_for_named_use_only() -> None:
    router = LoRARouter(2)
    bare = card("theirs", 0, prototypes=None)
    router.register_card(bare, description_vector=at(0)[0], author="anne")
    assert router.empty
    router.register_card(bare, description_vector=at(0)[0])
    assert answer(router, 0) == [bare.key]


def test_a_sphere_full_of_prototypes_takes_nothing_from_ours() -> None:
    rng = np.random.default_rng(0)
    dim = 48
    of: dict[str, Any] = {"dim": dim, "modules": {"embedding": adapter(dim, dim)}}

    def near(center: np.ndarray, spread: float) -> np.ndarray:
        found = center + spread * rng.normal(size=(200, dim)).astype(np.float32) / np.sqrt(dim)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    centers = rng.normal(size=(8, dim)).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    router = LoRARouter(dim)
    for i, center in enumerate(centers):
        router.register_card(made(f"s{i}", prototypes=center[None], threshold=0.8, **of))
    queries = np.concatenate([near(center, 0.4) for center in centers])
    alone = router.decide(queries)
    assert sum(bool(it.matches) for it in alone) > 1000
    for number in range(20):
        points = rng.normal(size=(256, dim)).astype(np.float32)
        router.register_virtual_candidate(
            f"evil{number}", f"sha256:{number:064x}", points, threshold=-1.0, floor=FLOOR
        )
        greedy = made(f"greedy{number}", prototypes=points, threshold=-1.0, **of)
        router.register_card(greedy, floor=FLOOR, author="anne")
    among = router.decide(queries)
    for before, after in zip(alone, among, strict=True):
        if before.matches:
            assert [it.name for it in after.matches] == [it.name for it in before.matches]


@pytest.mark.parametrize("length", [1e-45, 1e-30, 1e30, 3e38])
def test_claims_of_any_length_are_directions(length: float) -> None:
    router = LoRARouter(2)
    router.register_virtual_candidate(
        "theirs", "sha256:" + "f" * 64, at(0) * np.float32(length), threshold=0.9
    )
    assert names(router, 5)[0] == ["theirs"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_claim_that_is_not_finite_changes_nothing(bad: float) -> None:
    router = LoRARouter(2)
    router.register_card(card("ours", 0))
    with pytest.raises(CardInvalidError):
        router.register_virtual_candidate("theirs", "sha256:" + "f" * 64, [[1.0, bad]])
    virtual(router, "theirs", 90, threshold=bad)
    for degrees in (0, 90, 180):
        assert "theirs" not in names(router, degrees)[0]
    assert names(router, 0) == (["ours"], None)


def test_offers_can_be_passed_over() -> None:
    router = LoRARouter(2)
    router.register_card(card("ours", 0))
    best, second = virtual(router, "best", 90), virtual(router, "second", 120, digit="e")
    assert answer(router, 91) == [best]
    assert answer(router, 91, without={best}) == [second]
    assert answer(router, 91, without={best, second, "sha256:unknown"}) == []
    assert answer(router, 91, offers=False) == []
    assert answer(router, 1, offers=False, without={best}) == [card("ours", 0).key]


steps = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["own", "anne", "bert", "virtual", "gone"]),
        st.integers(1, 3),
    ),
    max_size=25,
)


@given(steps, st.integers(0, 2**32 - 1))
def test_whatever_comes_and_goes_the_checks_are_as_if_made_anew(
    steps: list[tuple[int, str, int]], seed: int
) -> None:
    """And nobody else's skill answers a prototype of ours."""
    rng = np.random.default_rng(seed)
    of: dict[str, Any] = {"dim": 3, "modules": {"embedding": adapter(3, 3)}}
    churned = LoRARouter(3)
    held: dict[str, tuple[str, Any]] = {}

    def register(router: LoRARouter, kind: str, it: Any) -> None:
        if kind == "virtual":
            router.register_virtual_candidate(
                it.name,
                it.key,
                it.prototypes,
                threshold=it.threshold,
                version=it.version,
                author=it.description,
                created=it.created,
            )
        else:
            router.register_card(it, author=None if kind == "own" else kind)

    for name, kind, version in steps:
        same = [key for key, (_, it) in held.items() if it.name == f"s{name}"]
        if kind == "gone":
            for key in same[:1]:
                churned.remove_card(key)
                del held[key]
            continue
        points = rng.normal(size=(version, 3)).astype(np.float32)
        it = made(
            f"s{name}",
            prototypes=points,
            threshold=-0.5,
            version=version,
            created=f"2026-01-0{rng.integers(1, 6)}T00:00:00Z",
            description=f"author {rng.integers(3)}",
            **of,
        )
        if it.key in held:
            continue
        held[it.key] = kind, it
        register(churned, kind, it)
    fresh = LoRARouter(3)
    # Others keep away from ours whoever came first.
    for kind, it in sorted(held.values(), key=lambda entry: entry[0] != "own"):
        register(fresh, kind, it)
    assert churned.routed() == fresh.routed()
    queries = rng.normal(size=(20, 3)).astype(np.float32)
    for one, other in zip(churned.decide(queries, 3), fresh.decide(queries, 3), strict=True):
        assert [it.digest for it in one.matches] == [it.digest for it in other.matches]
        assert one.reason == other.reason
    routed = set(churned.routed())
    ours = [it for kind, it in held.values() if kind == "own" and it.key in routed]
    for it in ours:
        for found in churned.decide(it.prototypes):
            assert all(held[match.digest][0] == "own" for match in found.matches)


def test_an_edition_is_chosen_in_the_same_way_whatever_the_order() -> None:
    editions = [
        Edition("anne", 3, moment("2026-01-01T00:00:00Z"), "c"),
        Edition("anne", 4, moment("2025-01-01T00:00:00Z"), "b"),
        Edition("bert", 1, moment("2025-06-01T00:00:00+00:00"), "d"),
        Edition("carl", 1, moment("2025-06-01T02:00:00+02:00"), "a"),
        Edition("dora", 99, moment("yesterday"), "z"),
    ]
    for order in (editions, editions[::-1]):
        assert foremost(order, lambda it: it) == editions[2], "equal times: by digest"
    own = Edition(None, 1, moment(""), "x")
    assert foremost([*editions, own], lambda it: it) == own
    assert foremost([], lambda it: it) is None
