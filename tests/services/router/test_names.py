"""What a skill's name on the wire leads to."""

from typing import Any

import msgspec
import pytest

from schemas import BaseModelRef, SkillCard
from services.router.errors import UnknownSkill
from services.router.names import Directory

ANNE, BERT = "ed25519:" + "A" * 43, "ed25519:" + "B" * 43


def card(name: str, version: int = 1, digest: str | None = None) -> SkillCard:
    digits = digest or f"{abs(hash((name, version))):064x}"[:64]
    return SkillCard(
        name=name,
        version=version,
        digest="sha256:" + digits,
        bytes=1,
        rank=1,
        alpha=1.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="tiny", sha256="a" * 64),
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=None,
        metrics={},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )


def signed(card: SkillCard, signer: str, **fields: Any) -> SkillCard:
    return msgspec.structs.replace(card, signer=signer, **fields)


def offer(card: SkillCard) -> SkillCard:
    """As it is kept of a peer: what neither routes nor names is left out."""
    return msgspec.structs.replace(card, target_modules=())


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    for version in (1, 2, 3):
        directory.install(card("law", version, digest=f"{version}" * 64))
    directory.install(card("banking", 1, digest="abc" + "d" * 61))
    return directory


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("law", "3" * 64),
        ("law@1", "1" * 64),
        ("sha256:" + "2" * 64, "2" * 64),
        ("sha256:" + "2" * 12, "2" * 64),
        ("abcddddddddd", "abc" + "d" * 61),
    ],
)
def test_every_form_of_a_name_leads_to_its_card(
    directory: Directory, text: str, digits: str
) -> None:
    found = directory.resolve(text)
    assert found.card.digest == "sha256:" + digits
    assert found.peer is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lwa", "did you mean 'law'"),
        ("law@9", "versions 1, 2, 3"),
        ("sha256:" + "9" * 12, "no skill with the digest"),
        ("zzz", "known are banking, law"),
        ("london/law", "not on offer"),
    ],
)
def test_an_unknown_name_says_what_is_known_nearby(
    directory: Directory, text: str, says: str
) -> None:
    with pytest.raises(UnknownSkill, match=says):
        directory.resolve(text)


def test_with_nothing_installed_that_is_said() -> None:
    with pytest.raises(UnknownSkill, match="none is installed"):
        Directory().resolve("law")


def test_digits_that_begin_two_cards_are_refused(directory: Directory) -> None:
    directory.install(card("other", digest="abc" + "d" * 60 + "e"))
    with pytest.raises(UnknownSkill, match="more than one"):
        directory.resolve("sha256:abcddddddddd")


def test_retiring_the_newest_brings_the_one_before_back(directory: Directory) -> None:
    directory.retire("sha256:" + "3" * 64)
    assert directory.resolve("law").card.version == 2
    directory.retire("sha256:" + "2" * 64)
    directory.retire("sha256:" + "1" * 64)
    with pytest.raises(UnknownSkill):
        directory.resolve("law")


def test_a_peers_card_is_found_by_its_peer_and_is_local_once_installed(
    directory: Directory,
) -> None:
    offered = offer(card("tax", 4, digest="7" * 64))
    directory.offers.put(offer(card("tax", 3, digest="6" * 64)), "london", 0.0)
    assert directory.offers.put(offered, "london", 0.0)
    assert not directory.offers.put(offered, "london", 0.0), "the same offer again is no news"

    assert directory.resolve("london/tax") == (offered, "london")
    assert directory.resolve("london/tax@3").card.version == 3
    assert directory.resolve("sha256:" + "7" * 64) == (offered, "london")
    with pytest.raises(UnknownSkill, match="ask for 'london/tax'"):
        directory.resolve("tax")

    directory.install(offered, "london")
    assert directory.resolve("london/tax") == (offered, None)
    assert directory.resolve("tax") == (offered, None)

    directory.offers.drop("london")
    assert directory.offered() == ()
    assert directory.resolve("london/tax") == (offered, None), "it is here, its peer is gone"
    assert directory.resolve("london/tax@4") == (offered, None)
    with pytest.raises(UnknownSkill, match="not on offer"):
        directory.resolve("london/tax@3")
    directory.retire(offered.digest)
    with pytest.raises(UnknownSkill, match="not on offer"):
        directory.resolve("london/tax")


def test_what_a_peer_offers_newer_than_what_came_from_it_wins(directory: Directory) -> None:
    here = signed(card("tax", 3, digest="6" * 64), ANNE)
    newer = offer(signed(card("tax", 4, digest="7" * 64), ANNE))
    directory.install(here, "london")
    directory.offers.put(offer(here), "london", 0.0)
    assert directory.resolve("london/tax") == (here, None)
    directory.offers.put(newer, "london", 0.0)
    assert directory.resolve("london/tax") == (newer, "london")
    assert directory.resolve("london/tax@3") == (here, None)
    assert directory.resolve("tax") == (here, None), "the plain name means what is installed"
    assert directory.instead_of("london/tax") == here
    for other in ("tax", "london/tax@4", newer.digest, "rome/tax"):
        assert directory.instead_of(other) is None


def test_the_plain_name_means_this_nodes_own_then_what_was_made_last() -> None:
    directory = Directory()
    bold = signed(card("law", 9, digest="1" * 64), ANNE, created="no time at all")
    early = signed(card("law", 7, digest="2" * 64), ANNE, created="2026-03-01T00:00:00Z")
    late = signed(card("law", 2, digest="3" * 64), BERT, created="2026-03-01T03:00:00+02:00")
    for one in (early, late):
        directory.install(one, "london")
    assert directory.resolve("law").card == late
    directory.install(bold, "london")
    assert directory.resolve("law").card == late, "a version is a number of its author's"
    directory.retire(late.digest)
    assert directory.resolve("law").card == bold
    own = card("law", 1, digest="4" * 64)
    directory.install(own)
    assert directory.resolve("law").card == own
    assert directory.resolve("law@7").card == early
    directory.retire(own.digest)
    assert directory.resolve("law").card == bold


def test_a_version_of_several_authors_is_asked_for_by_peer_or_digest() -> None:
    directory = Directory()
    own = card("law", 3, digest="1" * 64)
    directory.install(signed(card("law", 3, digest="2" * 64), ANNE), "london")
    assert directory.resolve("law@3").card.signer == ANNE
    directory.install(signed(card("law", 3, digest="3" * 64), BERT), "rome")
    with pytest.raises(UnknownSkill) as refusal:
        directory.resolve("law@3")
    for said in ("'london/law@3'", "'rome/law@3'", "sha256:" + "2" * 12, "sha256:" + "3" * 12):
        assert said in str(refusal.value)
    assert directory.resolve("rome/law@3").card.signer == BERT
    assert directory.resolve("sha256:" + "2" * 12).card.signer == ANNE
    directory.install(own)
    assert directory.resolve("law@3").card == own


def test_an_offer_of_what_is_this_nodes_own_is_not_gone_for() -> None:
    directory = Directory()
    own = card("law", 3, digest="1" * 64)
    directory.install(own)
    directory.offers.put(offer(signed(own, ANNE)), "london", 0.0)
    assert directory.resolve("london/law") == (own, None)
    assert directory.offered() == ()
