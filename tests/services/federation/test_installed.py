"""The catalogue is in step with what the manager installs, retires and rejects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from lora.store import CardStore
from schemas import ListedCard, SkillCard
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.identity import NodeKey
from services.federation.installed import Installed
from tests.services.federation.nodes import described, noise, signed

OWN = NodeKey.generate()
MINE = described(noise(10, 1), "mine")
THEIRS = signed(noise(20, 2), "theirs", 3)


class World:
    def __init__(self, folder: Path) -> None:
        self.catalogue = Catalogue(OWN.public)
        self.store = CardStore(folder)
        log: Any = structlog.get_logger()
        self.installed = Installed(self.catalogue, self.store, OWN, log)

    @property
    def served(self) -> set[str]:
        return {offer.card.name for offer in self.catalogue.offers()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def listed(card: SkillCard, state: str) -> ListedCard:
    return ListedCard(**msgspec.structs.asdict(card), state=state)


def test_own_cards_are_signed_and_others_served_as_they_are(world: World) -> None:
    world.installed.install(MINE)
    world.installed.install(THEIRS)
    mine, theirs = world.catalogue.offers()
    assert mine == (manifest.sign(MINE, OWN), world.store.path(MINE.digest))
    assert theirs == (THEIRS, world.store.path(THEIRS.digest))
    assert world.installed.foreign() == (THEIRS,)
    assert world.installed.foreign_bytes() == 20
    assert not world.installed.lacks(MINE.digest)
    assert world.installed.lacks("sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "words", [{"created": "today"}, {"name": "a\nb"}, {"version": 10**20}, {"bytes": 0}]
)
def test_a_card_that_cannot_be_signed_stays_here_and_the_others_are_served(
    world: World, words: dict[str, Any]
) -> None:
    broken = msgspec.structs.replace(MINE, digest=THEIRS.digest, **words)
    world.installed.listed([listed(broken, "installed"), listed(MINE, "kept")])
    assert world.served == {"mine"}
    assert not world.installed.lacks(broken.digest)
    assert world.installed.foreign_bytes() == 0


def test_a_list_that_is_older_than_what_was_heard_brings_nothing_back(world: World) -> None:
    old = [listed(MINE, "installed"), listed(THEIRS, "installed")]
    world.installed.listed(old)
    world.installed.retire(THEIRS.digest)
    world.installed.listed(old)
    assert world.served == {"mine"}
    assert not world.installed.lacks(THEIRS.digest), "it would be rejected again"
    world.installed.listed([listed(MINE, "retired")])
    assert world.served == set()


def test_what_waits_for_its_judgement_is_neither_here_nor_gone(world: World) -> None:
    world.installed.listed([listed(THEIRS, "pending")])
    assert world.served == set()
    world.installed.listed([listed(THEIRS, "installed")])
    assert world.served == {"theirs"}


def test_what_was_rejected_is_lacking_no_more_until_it_is_installed(world: World) -> None:
    world.installed.reject(THEIRS.digest, "it holds NaN")
    assert not world.installed.lacks(THEIRS.digest)
    assert world.installed.rejection(THEIRS.digest) == "it holds NaN"
    world.installed.install(THEIRS)
    assert world.installed.rejection(THEIRS.digest) is None
    world.installed.reject(THEIRS.digest, "somebody else's was")
    assert world.installed.rejection(THEIRS.digest) is None
    assert world.served == {"theirs"}
    world.installed.listed([listed(MINE, "rejected")])
    assert world.installed.rejection(MINE.digest) is not None


def test_newer_versions_are_the_same_authors(world: World) -> None:
    world.installed.install(THEIRS)
    newer = signed(noise(20, 4), "theirs", 4)
    assert world.installed.outdated_by(newer)
    assert not world.installed.outdated_by(signed(noise(20, 5), "theirs", 2))
    assert not world.installed.outdated_by(signed(noise(20, 6), "theirs", 9, key=OWN))
    assert not world.installed.outdated_by(signed(noise(20, 7), "others", 9))
    world.installed.install(newer)
    assert not world.installed.outdated_by(newer)
