"""The federation from a script: two folders, no fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora.card import Adapter, BaseModel, LoRACard
from services.federation import trust
from services.federation.errors import FederationError
from services.federation.identity import NodeKey
from services.federation.node import FederationNode
from services.runtime.settings import FederationSettings

MODEL = "ab" * 32
DIM = 16


def card(name: str, *, model: str = MODEL) -> LoRACard:
    random = np.random.default_rng(len(name))
    adapter = Adapter(
        a=random.normal(size=(DIM, 4)).astype(np.float32),
        b=random.normal(size=(4, DIM)).astype(np.float32),
        rank=4,
        alpha=8.0,
    )
    base = BaseModel("made for a test", model)
    return LoRACard(name=name, base_model=base, dim=DIM, modules={"embedding": adapter}, rank=4)


def settings(node: str, *peers: str) -> FederationSettings:
    return FederationSettings(node=node, discovery=False, peers=peers, sync_interval=0.2)


def trusting(folder: Path, other: Path) -> None:
    author = NodeKey.load_or_create(other / "keys" / "node.key")
    trust.add(folder / "keys" / "trusted", author.public, other.name)


def test_a_folder_of_cards_comes_from_a_peer_whose_author_is_trusted(tmp_path: Path) -> None:
    rome, oslo = tmp_path / "rome", tmp_path / "oslo"
    trusting(oslo, rome)
    with FederationNode(rome, settings=settings("rome")) as giver:
        there = giver.start_federation()
        given = giver.share(card("banking"))
        giver.share(card("foreign", model="cd" * 32))
        place = there.removeprefix("grpc://")

        with FederationNode(oslo, model=MODEL, settings=settings("oslo", place)) as taker:
            taker.start_federation()
            (found,) = taker.sync_remote_skills()
            again = taker.sync_remote_skills()

    assert (found.name, found.digest) == ("banking", given.digest)
    assert again == ()
    with FederationNode(oslo, settings=settings("oslo")) as later:
        later.start_federation()
        assert later.gateway is not None
        (offer,) = later.gateway.catalogue.offers()
    assert offer.card == given, "its author's still"


def test_nothing_comes_from_a_stranger(tmp_path: Path) -> None:
    rome, oslo = tmp_path / "rome", tmp_path / "oslo"
    with FederationNode(rome, settings=settings("rome")) as giver:
        place = giver.start_federation().removeprefix("grpc://")
        giver.share(card("banking"))

        with FederationNode(oslo, settings=settings("oslo", place)) as taker:
            taker.start_federation()
            assert taker.sync_remote_skills() == ()

    assert FederationNode(oslo).store.digests() == []


def test_what_lies_in_the_folder_is_shared_from_the_start(tmp_path: Path) -> None:
    with FederationNode(tmp_path, settings=settings("rome")) as node:
        stored = node.store.put(card("banking"))
        node.start_federation()

        assert node.gateway is not None
        (offer,) = node.gateway.catalogue.offers()

    assert offer.card.digest == stored.digest
    assert offer.card.signer == NodeKey.load_or_create(tmp_path / "keys" / "node.key").public


def test_before_the_start_nothing_can_be_shared(tmp_path: Path) -> None:
    node = FederationNode(tmp_path, settings=settings("rome"))

    with pytest.raises(FederationError, match="start_federation"):
        node.share(replace(card("banking"), version=2))
    node.close()
