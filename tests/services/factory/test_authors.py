"""Cards of several authors under one name: whose versions follow one another, and who is watched.

What a child makes of another author's champion is in `test_child_authors`.
"""

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lora.card import BaseModel, LoRACard
from lora.model import DEFAULT_ID, DEFAULT_SHA256
from lora.store import CardStore
from lora.training.champion import identity_head
from schemas import BaseModelRef, Event, SkillCard, SkillInstalled, SkillPublished, SkillRetire
from services.factory import versions
from services.factory.versions import VersionStore
from services.runtime.cards import describe
from services.runtime.skill_index import claims
from services.runtime.store import open_store
from tests.services.factory.fakes import DIM, Bend, Stage, stage, until, vector
from tests.services.factory.fakes import described as described_as
from tests.services.factory.plans import NAME, Plan, settings, task
from tests.services.factory.test_service import later_feedback
from tests.services.factory.test_shadow import Watched, same, worse
from tests.services.factory.test_shadow import card as described

ANNE, BERT = "ed25519:" + "A" * 43, "ed25519:" + "B" * 43
FLOOR = 0.6


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.factory.service.RETRY", 0.05)


def version(number: int, signer: str | None = None, digit: str = "0", **more: Any) -> SkillCard:
    digest = f"sha256:{digit * 60}{number:04d}"
    made = described("answer to question", 0.3)
    return msgspec.structs.replace(made, version=number, digest=digest, signer=signer, **more)


# -- which version serves, and what it is numbered by


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(open_store(tmp_path / "v.sqlite", versions.SCHEMA), tmp_path / "folds")


def learn(store: VersionStore, *cards: SkillCard) -> None:
    for since, card in enumerate(cards):
        store.learn(card, float(since), ours=card.signer is None)


def test_our_own_serves_before_others_and_only_ours_are_counted(store: VersionStore) -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    anne = [version(number, ANNE, "a", created=early) for number in (8, 9)]
    bert = version(2, BERT, "b", created=late)
    learn(store, *anne, bert)
    assert store.newest("birds").card == bert, "the one that was made last"
    assert store.newest("birds", without=bert.digest).card == anne[1]
    assert store.next_number("birds") == 1
    ours = version(1)
    learn(store, ours)
    assert store.newest("birds").card == ours
    assert store.next_number("birds") == 2
    store.forget("birds", ours.digest)
    assert store.newest("birds").card == bert
    assert store.next_number("birds") == 2, "the number of a retired version is not used again"


def test_only_versions_of_one_author_follow_one_another(store: VersionStore) -> None:
    ours = [version(number) for number in (1, 4)]
    anne = [version(number, ANNE, "a") for number in (2, 3)]
    learn(store, *ours, *anne)
    assert [it.card for it in store.chain("birds")] == ours
    assert store.below(store.newest("birds")).card == ours[0]
    for card in ours:
        store.forget("birds", card.digest)
    assert [it.card for it in store.chain("birds")] == anne
    assert store.below(store.chain("birds")[0]) is None


def test_fold_models_and_looks_of_ours_are_untouched_by_others(
    store: VersionStore, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    ours, anne = [version(number) for number in (1, 2)], version(9, ANNE, "a")
    learn(store, *ours, anne)
    for card in ours:
        store.keep_folds(card.digest, tmp_path / "made")
    store.prune_folds("birds", 2)
    assert all(store.folds(card.digest).is_dir() for card in ours)

    for it in store.in_service():
        store.look_again_at(it, 100)
    store.look_anew("birds", ours[0].digest)
    looks = {it.card.digest: it.next_look for it in store.in_service()}
    assert looks == {ours[0].digest: 100, ours[1].digest: 0, anne.digest: 100}


def test_an_older_store_is_read(tmp_path: Path) -> None:
    before = versions.SCHEMA.replace("    signer TEXT, cause TEXT, correlation TEXT,\n", "")
    assert before != versions.SCHEMA
    older = VersionStore(open_store(tmp_path / "v.sqlite", before), tmp_path / "folds")
    learn(older, version(3))
    assert older.next_number("birds") == 4
    learn(older, version(8, ANNE, "a"))
    assert older.next_number("birds") == 4


# -- the shadow


class Shipped(Watched):
    """The same, with versions of any author."""

    def by(self, signer: str, number: int, bend: Bend, **more: Any) -> SkillCard:
        card = version(number, signer, "a" if signer == ANNE else "b", **more)
        self.on.fleet.cards[card.digest] = bend
        self.versions.learn(card, 0.0)
        return card

    async def order(self) -> SkillRetire | None:
        told = await self.shadow.look("birds")
        return None if told is None else told.data


@pytest.mark.parametrize(("bend", "retired"), [(worse, True), (same, False)])
async def test_what_another_author_made_is_retired_where_it_is_worse_than_no_card(
    tmp_path: Path, bend: Bend, retired: bool
) -> None:
    async with stage(tmp_path) as on:
        watched = Shipped(on, tmp_path)
        theirs = watched.by(ANNE, 5, bend)
        watched.hear(60)
        order = await watched.order()

    assert (order is not None) is retired
    if order is not None:
        assert (order.digest, order.version, order.successor) == (theirs.digest, 5, None)
        assert "version 5 of another author is worse than the base model" in order.reason


async def test_another_authors_versions_follow_one_another_as_ours_do(tmp_path: Path) -> None:
    """Given a third author's version between them, by its number."""
    async with stage(tmp_path) as on:
        watched = Shipped(on, tmp_path)
        first = watched.by(ANNE, 1, same, created="2026-01-01T00:00:00Z")
        watched.by(BERT, 2, worse, created="2025-01-01T00:00:00Z")
        second = watched.by(ANNE, 3, worse, created="2026-02-01T00:00:00Z")
        watched.hear(60)
        order = await watched.order()

    assert order is not None
    assert (order.digest, order.successor) == (second.digest, first.digest)
    assert "worse than version 1" in order.reason


async def test_where_ours_serves_nobody_elses_is_judged_nor_ours_by_theirs(tmp_path: Path) -> None:
    """Given ours, no better than the base model, beside a better and a worse one of others."""
    async with stage(tmp_path) as on:
        watched = Shipped(on, tmp_path)
        watched.by(ANNE, 1, lambda text, base: vector("answer " + text.split()[-1]))
        watched.by(BERT, 9, worse)
        watched.ship(2, same)
        watched.hear(60)
        assert await watched.order() is None
        asked = {digest for request in on.fleet.asked for digest in request.skills}
        assert asked == {f"sha256:{2:064d}"}


async def test_where_ours_proves_worse_than_none_theirs_serves_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        watched = Shipped(on, tmp_path)
        theirs = watched.by(ANNE, 1, same)
        watched.ship(2, worse)
        watched.hear(60)
        order = await watched.order()

    assert order is not None
    assert (order.version, order.successor) == (2, theirs.digest)
    assert "worse than the base model" in order.reason


@pytest.mark.parametrize("changes", [{"threshold": None}, {"threshold": -1.0, "prototypes": "far"}])
async def test_nobody_is_blamed_for_queries_that_the_router_never_gives_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Given a card for named use only, and one that claims all but gets what lies near whales."""
    if "prototypes" in changes:
        changes = changes | {"prototypes": described("whales", 0.3).prototypes}
    async with stage(tmp_path) as on:
        watched = Shipped(on, tmp_path)
        watched.by(ANNE, 1, worse, **changes)
        watched.hear(60)
        assert await watched.order() is None


# -- the factory


def stored(on: Stage, number: int, signer: str, name: str = "birds", **more: Any) -> SkillCard:
    """Another author's card, fetched and installed."""
    made = LoRACard(
        name=name,
        version=number,
        base_model=BaseModel(DEFAULT_ID, DEFAULT_SHA256),
        dim=DIM,
        modules={"embedding": identity_head(DIM)},
        **more,
    )
    card = describe(CardStore(on.state.cards).put(made))
    return msgspec.structs.replace(card, signer=signer, signature="S" * 86)


def installed(card: SkillCard) -> Event[SkillInstalled]:
    return Event(data=SkillInstalled(card=card, peer="london"), source="/adapter_manager/1")


async def test_a_card_of_ours_must_beat_theirs_and_then_counts_by_itself(tmp_path: Path) -> None:
    """Given another author's card that is fetched while our first one is trained."""
    plan = Plan(tmp_path)
    plan.holds("head")
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        await on.bus.publish(task("t1"))
        await until(lambda: len(plan.log) == 1)
        await on.bus.publish(installed(stored(on, 7, ANNE)))
        await until(lambda: factory._versions.newest("birds") is not None)
        plan.gate.touch()
        (first,) = await on.until(1, SkillPublished)
        await on.bus.publish(installed(stored(on, 8, ANNE, created="2030-01-01T00:00:00Z")))
        await until(lambda: len(factory._versions.in_service()) == 3)
        await on.bus.publish(task("t2"))
        second = (await on.until(2, SkillPublished))[1]

    told = [(entry["foreign"], entry["champion"], entry["version"]) for entry in plan.log]
    assert told == [(False, None, 1), (True, 7, 1), (False, 1, 2)]
    assert [entry["folds"] is None for entry in plan.log] == [True, True, False]
    assert (first.card.version, second.card.version) == (1, 2)
    assert second.card.parents == (first.card.digest,)


async def test_what_a_peer_sent_in_vain_takes_no_number(tmp_path: Path) -> None:
    """Given cards out of service that name no author: one from a peer, one of this node."""
    refused = version(1_000_000, base_model=BaseModelRef(id=DEFAULT_ID, sha256=DEFAULT_SHA256))
    sent = msgspec.structs.replace(described_as(refused, "rejected"), peer="london")
    async with stage(tmp_path) as on:
        on.fleet.listed = [sent, described_as(version(3), "retired")]
        async with on.service(Plan(tmp_path).factory, NAME) as factory:
            await until(lambda: factory._versions.next_number("birds") == 4)


async def test_neighbours_are_those_that_names_mean_with_what_the_router_believes_of_them(
    tmp_path: Path,
) -> None:
    """Given a skill of ours, and two of Anne's: one claims everything, one bears our name."""
    plan = Plan(tmp_path)
    points = np.stack([vector("bees dance")])
    async with (
        stage(tmp_path, settings(body_schedule="off")) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        given = {"prototypes": points, "threshold": 0.7}
        ours = msgspec.structs.replace(stored(on, 1, ANNE, "bees", **given), signer=None)
        shadowed = stored(on, 9, ANNE, "bees", prototypes=-points, threshold=0.7)
        greedy = stored(on, 1, ANNE, "wasps", prototypes=-points, threshold=-1.0)
        for card in (greedy, shadowed, ours):
            await on.bus.publish(installed(card))
        await until(lambda: len(factory._versions.in_service()) == 3)
        await on.bus.publish(task("t1"))
        await on.until(1, SkillPublished)
        floor = factory.settings.router.description_threshold

    store = CardStore(on.state.cards)
    assert plan.log[0]["neighbours"] == [str(store.path(it.digest)) for it in (ours, greedy)]
    assert plan.log[0]["claims"] == {greedy.digest: pytest.approx(floor)}


async def test_the_factory_watches_theirs_too(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    changes = {"body_schedule": "off", "shadow_min": 50}
    async with (
        stage(tmp_path, settings(**changes)) as on,
        on.service(plan.factory, NAME) as factory,
    ):
        near = np.stack([vector(f"right answer to question {number}") for number in range(60)])
        theirs = stored(on, 7, ANNE, prototypes=near, threshold=0.7)
        on.fleet.cards[theirs.digest] = lambda text, base: vector("query number 7")
        await on.bus.publish(installed(theirs))
        await until(lambda: factory._versions.newest("birds") is not None)
        later = [  # judged after the card came
            msgspec.structs.replace(event, time=event.time.replace(year=2100))
            for event in later_feedback(60)
        ]
        await on.bus.publish(*later)
        (retire,) = await on.until(1, SkillRetire)
        assert factory._versions.newest("birds") is None

    assert (retire.name, retire.digest) == ("birds", theirs.digest)


# -- what is believed


def test_claims_are_the_routers() -> None:
    def at(text: str, number: int, signer: str | None, name: str, **more: Any) -> SkillCard:
        points = base64.b64encode(vector(text).tobytes()).decode()
        return version(number, signer, prototypes=points, name=name, **more)

    ours = at("bees dance", 1, None, "bees")
    believed = at("whales sing", 2, ANNE, "whales", threshold=0.9)
    floored = at("taxes rise", 3, ANNE, "taxes", threshold=0.1)
    thief = at("bees dance", 4, ANNE, "honey", threshold=0.1)
    named = at("owls hunt", 5, ANNE, "owls", threshold=None)
    broken = at("owls hunt", 6, ANNE, "eagles")
    broken = msgspec.structs.replace(broken, prototypes="not base64!")
    found = claims((thief, believed, floored, named, broken, ours), DIM, FLOOR)

    assert found == {
        thief.digest: 1.0,
        believed.digest: pytest.approx(0.9),
        floored.digest: pytest.approx(FLOOR),
    }
