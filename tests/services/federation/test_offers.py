"""What peers offer, as it is judged: told once, judged again, bounded."""

from __future__ import annotations

from services.federation.errors import CardRefused, Untrusted
from services.federation.limits import Ration
from services.federation.offers import TOLD_EACH, Offers
from tests.services.federation.nodes import described, noise, signed

GOOD, OTHER = signed(noise(10, 1)), signed(noise(10, 2), "other")
BAD = described(noise(10, 3), "bad")


class Judge:
    """Refuses the names on its list."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def __call__(self, card: object) -> CardRefused | None:
        return Untrusted("not believed") if card.name in self.names else None  # type: ignore[attr-defined]


def test_accepted_offers_are_known_by_peer_and_digest() -> None:
    offers = Offers(Judge("bad"))
    (refusal,) = offers.put("a", [GOOD, BAD])
    assert (refusal.peer, refusal.card, str(refusal.error)) == ("a", BAD, "not believed")
    assert offers.put("b", [GOOD, OTHER]) == ()
    assert offers.all() == (("a", GOOD), ("b", GOOD), ("b", OTHER))
    assert offers.by("a") == (("a", GOOD),)
    assert offers.of(GOOD.digest) == (("a", GOOD), ("b", GOOD))
    assert offers.of(BAD.digest) == ()
    offers.put("b", [OTHER])
    assert offers.of(GOOD.digest) == (("a", GOOD),)
    offers.remove("a")
    offers.remove("nobody")
    assert offers.all() == (("b", OTHER),)


def test_a_refusal_is_told_once_and_again_when_it_has_another_reason() -> None:
    judge = Judge("bad")
    offers = Offers(judge)
    assert len(offers.put("a", [BAD])) == 1
    assert offers.put("a", [BAD]) == ()
    offers.remove("a")
    assert offers.put("a", [BAD]) == ()
    assert len(offers.put("b", [BAD])) == 1


def test_offers_are_judged_again_unless_there_are_others_by_then() -> None:
    judge = Judge("bad")
    offers = Offers(judge)
    offers.put("a", [GOOD, BAD])
    judge.names = {GOOD.name}
    ((peer, cards),) = offers.claimed()
    verdict = offers.judge(peer, cards)
    assert offers.by("a") == (("a", GOOD),), "judging alone changes nothing"
    (refusal,) = offers.heed_again(verdict)
    assert refusal.card == GOOD
    assert offers.by("a") == (("a", BAD),)

    late = offers.judge(*offers.claimed()[0])
    offers.put("a", [OTHER])
    assert offers.heed_again(late) == ()
    assert offers.by("a") == (("a", OTHER),)
    offers.remove("a")
    assert offers.heed_again(late) == ()
    assert offers.all() == ()


def test_of_very_many_refusals_some_are_told() -> None:
    now = [0.0]
    offers = Offers(Judge("bad"), Ration(100, TOLD_EACH, 3600.0, clock=lambda: now[0]))

    def flood(peer: str, start: int) -> int:
        cards = [described(b"%d" % number, "bad") for number in range(start, start + 300)]
        return len(offers.put(peer, cards))

    assert flood("a", 0) == TOLD_EACH
    assert flood("a", 1000) == 0
    assert flood("b", 0) == 100 - TOLD_EACH
    assert offers.all() == ()
    now[0] = 3600.0
    assert flood("a", 2000) == TOLD_EACH
