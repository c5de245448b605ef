"""The index of skills: who is called, who abstains, and always the same answer."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora import LoRARouter
from lora.errors import CardInvalidError, ConfigError
from tests.lora.cards import card

DIM = 6
X, Y, Z = np.eye(DIM, dtype=np.float32)[:3]


def skill(name: str, *points: np.ndarray, threshold: float | None = 0.5, version: int = 1, **more):
    prototypes = np.array(points, np.float32) if points else None
    return card(name, prototypes=prototypes, threshold=threshold, version=version, **more)


def names(matches) -> list[str]:
    return [match.name for match in matches]


def test_the_nearest_prototype_decides_and_the_threshold_abstains() -> None:
    router = LoRARouter(DIM)
    router.register_card(skill("both", X, Y, threshold=0.9))
    router.register_card(skill("third", Z, threshold=0.2))
    (match,) = router.select(3 * Y)
    assert (match.name, match.version, match.virtual) == ("both", 1, False)
    assert match.score == pytest.approx(1)
    assert match.digest == skill("both", X, Y, threshold=0.9).key
    assert names(router.select(X + Z, top_k=5)) == ["third"]
    assert names(router.select(X + Z, top_k=5, threshold=0.8)) == []
    assert router.select(-X) == []
    assert len(router.select(X + 0.3 * Z, top_k=1)) == 1
    assert names(router.select(X + 0.3 * Z, top_k=2)) == ["both", "third"]


def test_a_zero_vector_selects_nothing_even_below_every_threshold() -> None:
    router = LoRARouter(DIM)
    router.register_card(skill("x", X, threshold=-1.0))
    assert router.select(np.zeros(DIM)) == []
    assert names(router.select(-X)) == ["x"]


def test_equal_scores_are_ordered_by_digest_whatever_the_order_of_arrival() -> None:
    cards = [skill(f"s{i}", X) for i in range(6)]
    expected = sorted(one.key for one in cards)
    for order in (cards, cards[::-1]):
        router = LoRARouter(DIM)
        for one in order:
            router.register_card(one)
        assert [m.digest for m in router.select(X, top_k=6)] == expected


def test_only_the_newest_version_is_routed_to_and_retiring_it_brings_the_former_back() -> None:
    router = LoRARouter(DIM)
    one, two = skill("s", X, version=1), skill("s", Y, version=2)
    router.register_card(two)
    router.register_card(one)
    assert router.select(X) == []
    assert [m.version for m in router.select(Y)] == [2]
    assert router.routed() == [two.key]
    assert router.cards() == sorted([one.key, two.key])
    router.remove_card(two.key)
    router.remove_card(two.key)
    assert [m.version for m in router.select(X)] == [1]
    assert router.select(Y) == []
    router.remove_card(one.key)
    assert (len(router), router.select(X)) == (0, [])


def test_a_card_for_named_use_is_not_routed_to_and_hides_the_version_before() -> None:
    router = LoRARouter(DIM)
    router.register_card(skill("s", X, version=1))
    named = skill("s", X, version=2, threshold=None)
    router.register_card(named)
    router.register_card(skill("bare", threshold=None), description_vector=X)
    assert router.select(X) == []
    router.remove_card(named.key)
    assert [m.version for m in router.select(X)] == [1]


def test_a_card_without_prototypes_is_found_by_its_description() -> None:
    router = LoRARouter(DIM, description_threshold=0.7)
    described = skill("imported", threshold=0.1, description="about x")
    router.register_card(described)
    assert router.select(X) == []
    router.register_card(described, description_vector=X)
    assert names(router.select(X)) == ["imported"]
    assert router.select(X + Y + Z) == []


def test_a_virtual_candidate_stands_in_until_the_skill_is_installed() -> None:
    router = LoRARouter(DIM)
    router.register_virtual_candidate("s", "sha256:" + "f" * 64, X, threshold=0.5, version=9)
    (match,) = router.select(X)
    assert (match.virtual, match.version) == (True, 9)
    router.register_card(skill("s", Y, version=1))
    assert router.select(X) == []
    assert [m.virtual for m in router.select(Y)] == [False]


def test_the_threshold_of_a_card_from_elsewhere_is_floored() -> None:
    router = LoRARouter(DIM)
    router.register_card(skill("greedy", X, threshold=-1.0), floor=0.6)
    assert router.select(Y) == []
    assert names(router.select(X)) == ["greedy"]


def test_a_card_registered_again_replaces_what_was_known_of_it() -> None:
    router = LoRARouter(DIM)
    described = skill("s", threshold=0.5)
    router.register_card(described, description_vector=X)
    router.register_card(described, description_vector=Y)
    assert router.select(X) == []
    assert len(router) == 1


def test_a_text_needs_an_embedder() -> None:
    router = LoRARouter(DIM, embedder=lambda text: X if text == "x" else Y)
    router.register_card(skill("s", X))
    assert names(router.select("x")) == ["s"]
    assert router.select("y") == []
    with pytest.raises(ConfigError, match="embedder"):
        LoRARouter(DIM).select("x")


@pytest.mark.parametrize("bad", [np.ones(DIM + 1), np.full(DIM, np.nan), np.ones((1, 1, DIM))])
def test_a_vector_that_makes_no_sense_is_refused(bad) -> None:
    with pytest.raises(CardInvalidError):
        LoRARouter(DIM).select(bad)
    with pytest.raises(CardInvalidError):
        LoRARouter(DIM).register_virtual_candidate("x", "y", np.ones((2, DIM + 1)))


def test_settings_outside_their_range_are_refused() -> None:
    for bad in (lambda: LoRARouter(0), lambda: LoRARouter(2, description_threshold=2)):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(ConfigError, match="top_k"):
        LoRARouter(DIM).select(X, top_k=0)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 4), st.sampled_from("ird")),
        max_size=40,
    ),
    st.integers(0, 2**32 - 1),
)
def test_the_index_answers_as_a_plain_search_would(steps, seed: int) -> None:
    rng = np.random.default_rng(seed)
    router = LoRARouter(DIM)
    held: dict[str, dict[int, object]] = {}
    for name, version, step in steps:
        versions = held.setdefault(f"s{name}", {})
        if step == "d":
            gone = versions.pop(version, None)
            if gone is not None:
                router.remove_card(gone.key)
        elif version not in versions:
            points = rng.normal(size=(1 + version % 3, DIM)).astype(np.float32)
            made = skill(f"s{name}", *points, version=version, threshold=0.3)
            versions[version] = made
            router.register_card(made)
    newest = [versions[max(versions)] for versions in held.values() if versions]
    for query in rng.normal(size=(5, DIM)).astype(np.float32):
        expected = {}
        for one in newest:
            rows = one.prototypes / np.linalg.norm(one.prototypes, axis=1, keepdims=True)
            score = float((rows @ (query / np.linalg.norm(query))).max())
            if score >= 0.3:
                expected[one.key] = score
        found = {m.digest: m.score for m in router.select(query, top_k=10)}
        assert found == pytest.approx(expected, abs=1e-5)
    many = rng.normal(size=(7, DIM)).astype(np.float32)
    for alone, together in zip(
        [router.select(query, 3) for query in many], router.select_many(many, 3), strict=True
    ):
        assert [m.digest for m in alone] == [m.digest for m in together]
    assert router.scores(many).shape == (7,)


def test_ten_thousand_skills_are_searched_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    router = LoRARouter(384)
    points = rng.normal(size=(10_000, 384)).astype(np.float32)
    for i, point in enumerate(points):
        router.register_virtual_candidate(f"s{i}", f"sha256:{i:064x}", point, threshold=0.3)
    times = []
    for i in range(60):
        started = time.perf_counter()
        matches = router.select(points[i], top_k=3)
        times.append(time.perf_counter() - started)
        assert matches[0].name == f"s{i}"
    # The promise, under 1 ms, is kept by the benchmark; a busy machine gets room here.
    assert min(times) < 0.01


def test_threads_may_register_and_select_at_once() -> None:
    router = LoRARouter(DIM)
    router.register_card(skill("fixed", X, threshold=0.99))
    failures: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for version in range(1, 40):
                made = skill(name, Y, version=version)
                router.register_card(made)
                assert names(router.select(X)) == ["fixed"]
                router.remove_card(made.key)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=churn, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert router.routed() == [skill("fixed", X, threshold=0.99).key]
