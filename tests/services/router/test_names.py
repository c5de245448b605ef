"""What a skill's name on the wire leads to."""

import pytest

from schemas import BaseModelRef, SkillCard
from services.router.errors import UnknownSkill
from services.router.names import Directory


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
    offered = card("tax", 4, digest="7" * 64)
    directory.offer(card("tax", 3, digest="6" * 64), "london")
    assert directory.offer(offered, "london")
    assert not directory.offer(offered, "london"), "the same offer again is no news"

    assert directory.resolve("london/tax") == (offered, "london")
    assert directory.resolve("sha256:" + "7" * 64) == (offered, "london")
    with pytest.raises(UnknownSkill, match="ask for 'london/tax'"):
        directory.resolve("tax")

    directory.install(offered)
    assert directory.resolve("london/tax") == (offered, None)
    assert directory.resolve("tax") == (offered, None)

    directory.withdraw("london")
    assert directory.offered() == ()
