"""Offers are bounded for each peer and in all, and end where they are not repeated."""

from typing import Any

import msgspec
import pytest

from schemas import SkillCard
from services.router.errors import OfferRefused
from services.router.offers import MAX_POINTS, MAX_WORDS, Offers
from tests.services.router.test_names import card


def digests(offers: Offers) -> list[str]:
    return sorted(found.card.digest[-1] for found in offers)


def one(number: int, **fields: Any) -> SkillCard:
    return msgspec.structs.replace(card("law", number, digest=f"{number:064x}"), **fields)


def test_an_offer_ends_where_it_is_not_repeated() -> None:
    offers = Offers()
    offers.put(one(1), "london", 10.0)
    offers.put(one(2), "london", 10.0)
    offers.put(one(1), "london", 20.0)
    assert [it.version for it in offers.expire(15.0)] == [2]
    assert digests(offers) == ["1"]
    assert offers.expire(20.0) == ()
    assert [it.version for it in offers.expire(20.1)] == [1]
    assert digests(offers) == []
    assert offers.put(one(1), "london", 30.0), "on offer again, that is news"


def test_a_digest_is_on_offer_as_long_as_anybody_has_it() -> None:
    offers = Offers()
    offers.put(one(1), "london", 0.0)
    offers.put(one(1), "rome", 0.0)
    assert [found.peer for found in offers.by_digest(one(1).digest)] == ["london", "rome"]
    offers.drop("london")
    assert [found.peer for found in offers.by_digest(one(1).digest)] == ["rome"]
    offers.forget(one(1).digest)
    assert offers.by_digest(one(1).digest) == ()
    assert offers.by_peer("rome") == ()


def test_peers_and_their_cards_are_bounded() -> None:
    offers = Offers(max_peers=2, max_cards=3)
    for peer in ("london", "rome"):
        for number in range(1, 4):
            offers.put(one(number), peer, 0.0)
        with pytest.raises(OfferRefused, match="3 cards are heeded"):
            offers.put(one(4), peer, 0.0)
        assert not offers.put(one(3), peer, 0.0)
    with pytest.raises(OfferRefused, match="2 peers are heeded"):
        offers.put(one(1), "paris", 0.0)
    offers.drop("rome")
    assert offers.put(one(1), "paris", 0.0)


@pytest.mark.parametrize("peer", ["", "London", "a/b", "../x", "x" * 65, "a b"])
def test_what_is_no_name_of_a_peer_is_refused(peer: str) -> None:
    offers = Offers()
    with pytest.raises(OfferRefused, match="no name"):
        offers.put(one(1), peer, 0.0)
    assert digests(offers) == []


def test_of_an_offer_only_what_routes_is_kept() -> None:
    offers = Offers()
    metrics = {f"beside.{number}": 0.0 for number in range(5000)}
    offers.put(one(1, description="x" * 500_000, metrics=metrics, prototypes="AAAA"), "london", 0)
    ((kept, _),) = offers
    assert (kept.description, kept.metrics, kept.prototypes) == ("", {}, "AAAA")
    with pytest.raises(OfferRefused, match="bytes"):
        offers.put(one(2, created="9" * MAX_WORDS), "london", 0.0)


def test_points_of_one_peer_are_bounded_and_leave_its_cards_to_be_named() -> None:
    offers = Offers()
    many = "A" * (MAX_POINTS // 2)
    for number in range(1, 4):
        assert offers.put(one(number, prototypes=many), "london", 0.0)
    assert [bool(found.card.prototypes) for found in offers] == [True, True, False]
    assert offers.put(one(4, prototypes=many), "rome", 0.0)
    assert offers.by_peer("rome")[0].prototypes, "one peer takes nothing from another"
