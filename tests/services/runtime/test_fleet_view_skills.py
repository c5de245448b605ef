"""Skills, who serves them, and peers, as they are shown; time passes as the test says."""

from typing import Any

from schemas import (
    AdapterLoaded,
    AdapterUnloaded,
    PeerJoined,
    PeerLeft,
    SkillDiscovered,
    SkillInstalled,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetired,
)
from services.runtime.fleet_view_skills import GONE, OFFERED, OFFERS, PEERS, Peers, Skills
from services.runtime.fleet_view_status import SkillStatus
from tests.services.runtime.fleet_view_kit import MODEL, beat, card, digest, listed, said


def states(skills: Skills) -> list[tuple[str, int, str]]:
    return [(it.name, it.version, it.state) for it in skills.snapshot()]


def hear(skills: Skills, *told: Any) -> None:
    for data in told:
        skills.hear(said(data))


def retired(it: Any) -> SkillRetired:
    return SkillRetired(name=it.name, version=it.version, digest=it.digest, reason="worse")


def test_the_managers_list_is_shown_those_that_serve_first() -> None:
    skills = Skills()
    old, new, other = card("law", 1), card("law", 2), card("tax", 1, signer="ed25519:x")
    skills.listed(
        [
            listed(old, "kept"),
            listed(other, "retired", peer="london"),
            listed(new, pinned=True),
        ]
    )
    assert states(skills) == [("law", 2, "installed"), ("law", 1, "kept"), ("tax", 1, "retired")]
    first, _, last = skills.snapshot()
    assert first == SkillStatus(
        name="law",
        version=2,
        digest=new.digest,
        state="installed",
        pinned=True,
        rank=4,
        bytes=900,
        description="about law",
        applies_to=("query",),
        before=0.4,
        after=0.5,
        gain=0.1,
        low=0.05,
        high=0.15,
        parents=(old.digest,),
        created=new.created,
        signer=None,
        peer=None,
        workers=(),
    )
    assert (last.signer, last.peer) == ("ed25519:x", "london")
    assert skills.model() == MODEL


def test_a_new_version_takes_the_place_of_the_one_before() -> None:
    skills = Skills()
    one, two = card("law", 1), card("law", 2)
    hear(skills, SkillPublished(card=one, origin="here"))
    assert states(skills) == [("law", 1, "pending")]
    hear(skills, SkillInstalled(card=one), SkillInstalled(card=two))
    assert states(skills) == [("law", 2, "installed"), ("law", 1, "kept")]
    hear(skills, retired(two))
    assert states(skills) == [("law", 1, "installed"), ("law", 2, "retired")]


def test_versions_of_another_author_are_theirs() -> None:
    skills = Skills()
    hear(skills, SkillInstalled(card=card("law", 1)))
    hear(skills, SkillInstalled(card=card("law", 7, signer="ed25519:x"), peer="london"))
    assert [(it.version, it.state, it.peer) for it in skills.snapshot()] == [
        (1, "installed", None),
        (7, "installed", "london"),
    ]


def test_a_card_that_was_rejected_is_told_of_as_such() -> None:
    skills = Skills()
    law = card("law")
    hear(skills, SkillPublished(card=law, origin="here"))
    hear(skills, SkillRejected(name="law", digest=law.digest, reason="broken"))
    hear(skills, SkillRejected(name="offer", digest=digest("offer"), reason="a peer's"))
    assert states(skills) == [("law", 1, "rejected")]


def test_a_list_that_is_older_than_what_was_told_since_does_not_bring_back() -> None:
    skills = Skills()
    law = card("law")
    hear(skills, SkillInstalled(card=law), retired(law))
    skills.listed([listed(law)])
    assert states(skills) == [("law", 1, "retired")]


def test_pins_are_shown() -> None:
    skills = Skills()
    law = card("law")
    hear(skills, SkillInstalled(card=law))
    pin = {"name": "law", "version": 1, "digest": law.digest}
    for pinned in (True, False):
        hear(skills, SkillPin(**pin, pinned=pinned))
        assert [it.pinned for it in skills.snapshot()] == [pinned]


def test_who_has_mapped_a_skill_is_told_by_events_and_by_heartbeats() -> None:
    skills = Skills()
    law = card("law")
    hear(skills, SkillInstalled(card=law))
    report = {"digest": law.digest, "milliseconds": 1.0, "bytes": 9}
    digits = law.digest[7:19]
    skills.beat(beat("encoder", "2", counters={"cards": 1, f"card:{digits}": 9}))
    hear(skills, AdapterLoaded(worker="encoder-1", **report))
    assert skills.snapshot()[0].workers == ("encoder/1", "encoder/2")
    hear(skills, AdapterUnloaded(worker="encoder-1", **report))
    assert skills.snapshot()[0].workers == ("encoder/2",)
    skills.beat(beat("encoder", "2", counters={"cards": 0}))
    assert skills.snapshot()[0].workers == ()


def test_a_heartbeat_that_cannot_tell_all_cards_takes_none_away() -> None:
    skills = Skills()
    law, tax = card("law"), card("tax")
    hear(skills, SkillInstalled(card=law), SkillInstalled(card=tax))
    hear(skills, AdapterLoaded(worker="encoder-1", digest=law.digest, milliseconds=1.0, bytes=9))
    skills.beat(beat("encoder", counters={"cards": 2, f"card:{tax.digest[7:19]}": 9}))
    assert [it.workers for it in skills.snapshot()] == [("encoder/1",), ("encoder/1",)]


def test_what_an_encoder_had_goes_with_it() -> None:
    skills = Skills()
    law = card("law")
    hear(skills, SkillInstalled(card=law))
    for number in ("1", "2", "3"):
        counters = {"cards": 1, f"card:{law.digest[7:19]}": 9}
        skills.beat(beat("encoder", number, counters=counters))
    skills.beat(beat("encoder", "3", state="stopped"))
    skills.alive(["encoder-1"])
    assert skills.snapshot()[0].workers == ("encoder/1",)


def test_of_cards_out_of_service_the_newest_are_shown() -> None:
    skills = Skills()
    skills.listed(
        listed(card(f"old-{n}", created=f"2025-01-01T00:00:{n % 60:02}Z"), "retired")
        for n in range(GONE + 9)
    )
    skills.listed([listed(card("law"))])
    assert len(skills.snapshot()) == GONE + 1


def test_peers_are_shown_with_what_they_offer() -> None:
    peers = Peers()
    law = card("law", 2)
    peers.hear(said(PeerJoined(peer="london", endpoint="10.0.0.1:5000")), 0.0)
    peers.hear(said(SkillDiscovered(card=law, peer="london")), 0.0)
    peers.hear(said(SkillDiscovered(card=card("law", 3), peer="paris")), 0.0)
    london, paris = peers.snapshot(1.0)
    assert (london.peer, london.endpoint) == ("london", "10.0.0.1:5000")
    assert [(it.name, it.version, it.digest) for it in london.skills] == [("law", 2, law.digest)]
    assert (paris.peer, paris.endpoint) == ("paris", None)


def test_an_offer_that_is_not_repeated_is_over() -> None:
    peers = Peers()
    peers.hear(said(PeerJoined(peer="london", endpoint="e")), 0.0)
    for name in ("london", "paris"):
        peers.hear(said(SkillDiscovered(card=card("law"), peer=name)), 0.0)
    peers.hear(said(SkillDiscovered(card=card("tax"), peer="london")), 10.0)
    (london,) = peers.snapshot(1.0 + OFFERED)
    assert [it.name for it in london.skills] == ["tax"]


def test_a_peer_that_leaves_is_gone_and_so_are_all_with_their_gateway() -> None:
    peers = Peers()
    for name in ("london", "paris"):
        peers.hear(said(PeerJoined(peer=name, endpoint="e")), 0.0)
    peers.hear(said(PeerLeft(peer="london", endpoint="e")), 0.0)
    assert [it.peer for it in peers.snapshot(0.0)] == ["paris"]
    peers.forget()
    assert peers.snapshot(0.0) == ()


def test_peers_and_their_offers_are_bounded() -> None:
    peers = Peers()
    for number in range(PEERS + 5):
        peers.hear(said(PeerJoined(peer=f"peer-{number}", endpoint="e")), 0.0)
    for number in range(OFFERS + 5):
        peers.hear(said(SkillDiscovered(card=card(f"s{number}"), peer="peer-9")), 0.0)
    told = peers.snapshot(0.0)
    assert len(told) == PEERS
    assert max(len(it.skills) for it in told) == OFFERS
