"""Where queries lie: by the router's rules, whoever made the cards."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas import Event, FeedbackGiven, FeedbackJudged, SkillCard, SkillInstalled, SkillRetired
from services.dissonance_monitor.service import DissonanceMonitor
from services.dissonance_monitor.skills import Nearest, Skills
from services.runtime.settings import RouterSettings, Settings
from tests.services.dissonance_monitor.test_service import card as described
from tests.services.factory.fakes import stage, until, vector

NAME = "dissonance_monitor"
ANNE, BERT = "ed25519:" + "A" * 43, "ed25519:" + "B" * 43
FLOOR = 0.5


def card(text: str, digit: str = "1", threshold: float | None = 0.5, **more: Any) -> SkillCard:
    return msgspec.structs.replace(
        described(text, threshold), digest="sha256:" + digit * 64, **more
    )


def skills(*cards: SkillCard) -> Skills:
    made = Skills(FLOOR)
    for it in cards:
        made.learn(it)
    return made


async def near(known: Skills, text: str) -> Nearest:
    (found,) = await known.nearest(vector(text)[None])
    return found


async def test_our_own_version_counts_whatever_number_another_author_has_reached() -> None:
    known = skills(card("bird nest"), card("tax form", "2", version=9, signer=ANNE))
    assert (await near(known, "bird nest")).domain == "birds"
    assert (await near(known, "tax form")).domain is None
    known.forget("sha256:" + "1" * 64)
    assert (await near(known, "tax form")).domain == "birds", "nothing of ours is left"
    assert (await near(known, "bird nest")).domain is None


async def test_of_several_others_the_one_made_last_counts() -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    known = skills(
        card("tax form", "2", version=9, signer=ANNE, created=early),
        card("bird nest", "3", version=1, signer=BERT, created=late),
    )
    assert (await near(known, "bird nest")).domain == "birds"
    assert (await near(known, "tax form")).domain is None


@pytest.mark.parametrize(("signer", "domain"), [(None, "birds"), (ANNE, None)])
async def test_a_threshold_of_another_author_is_not_believed_below_the_floor(
    signer: str | None, domain: str | None
) -> None:
    """Given a card that claims every query there is."""
    known = skills(card("bird nest", threshold=-1.0, signer=signer))
    assert (await near(known, "tax form")).domain == domain
    assert (await near(known, "bird nest")).domain == "birds"


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_what_would_steal_from_ours_is_given_nothing_and_makes_nothing_less_novel(
    first: str,
) -> None:
    """Given another author's card with a prototype of ours, and one far from all of ours."""
    ours = card("bird nest")
    points = np.stack([vector("bird nest"), vector("tax form")])
    theirs = card("", "2", threshold=0.0, name="all", signer=ANNE)
    theirs = msgspec.structs.replace(theirs, prototypes=base64.b64encode(points.tobytes()).decode())
    known = skills(*((ours, theirs) if first == "ours" else (theirs, ours)))
    assert (await near(known, "bird nest")).domain == "birds"
    told = await near(known, "tax form")
    assert told.domain is None
    assert told.novelty is not None
    assert told.novelty < 0.6
    known.forget(ours.digest)
    assert (await near(known, "tax form")).domain == "all"


async def test_only_our_own_cards_for_named_use_make_a_query_less_novel() -> None:
    ours = await near(skills(card("bird nest", threshold=None)), "bird nest")
    assert ours.domain is None
    assert ours.novelty == pytest.approx(1.0)
    theirs = await near(skills(card("bird nest", threshold=None, signer=ANNE)), "bird nest")
    assert theirs == Nearest(None, None)


async def test_feedback_is_given_to_the_skill_that_the_router_would_choose(tmp_path: Path) -> None:
    """Given another author's card that claims everything: it gets what lies near it alone."""
    settings = Settings(router=RouterSettings(description_threshold=FLOOR))
    theirs = card("bird nest", threshold=-1.0, signer=ANNE)
    texts = ("bird nest", "tax return")
    async with stage(tmp_path, settings) as on, on.service(DissonanceMonitor, NAME) as monitor:
        await on.bus.publish(Event(data=SkillInstalled(card=theirs, peer="london"), source="/m/1"))
        for text in texts:
            data = FeedbackGiven(query=text, relevant=("reeds",), served=())
            await on.bus.publish(Event(data=data, source="/client/1", id=text))
        judged = {data.query: data.domain for data in await on.until(2, FeedbackJudged)}
        retired = SkillRetired(name="birds", version=1, digest=theirs.digest, reason="worse")
        await on.bus.publish(Event(data=retired, source="/m/1"))

        async def gone() -> bool:
            return await near(monitor._skills, "bird nest") == Nearest(None, None)

        await until(gone)

    assert judged == {"bird nest": "birds", "tax return": "general"}
