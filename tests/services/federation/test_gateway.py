"""Two gateways, with certificates of one federation: they meet, share, part and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from lora.store import CardStore
from schemas import SkillCard
from services.federation import manifest, peers, trust
from services.federation.authority import create_authority, issue
from services.federation.errors import FederationError, KeyFileError, ServerError, Untrusted
from services.federation.gateway import Gateway
from services.federation.identity import NodeKey
from services.runtime.settings_federation import FederationSettings
from tests.services.encoder.processes import until
from tests.services.federation.nodes import MODEL, described, noise, threads

DATA = noise(2_000_000, 1)


class Site:
    """One node: its folder, its gateway, and what it heard."""

    def __init__(self, root: Path, node: str) -> None:
        self.node, self.folder = node, root / node
        self.store = CardStore(self.folder / "cards")
        self.cards: dict[str, tuple[SkillCard, ...]] = {}
        self.gateway: Gateway | None = None

    async def joined(self, peer: str, endpoint: str) -> None: ...

    async def left(self, peer: str, endpoint: str) -> None:
        self.cards.pop(peer, None)

    async def offers(self, peer: str, cards: tuple[SkillCard, ...]) -> None:
        self.cards[peer] = cards

    async def open(self, *known: str, **options: Any) -> Gateway:
        given: dict[str, Any] = {
            "node": self.node,
            "host": "127.0.0.1",
            "discovery": False,
            "peers": known,
            "sync_interval": 0.2,
        }
        self.gateway = gateway = Gateway(
            FederationSettings(**given | options),
            keys=self.folder / "keys",
            store=self.store,
            incoming=self.folder / "incoming",
            model=MODEL,
            heard=self,
            log=structlog.get_logger(),
        )
        await gateway.open()
        return gateway

    def share(self, data: bytes, name: str = "banking") -> SkillCard:
        assert self.gateway is not None
        card = manifest.sign(described(data, name), self.gateway.key)
        path = self.store.path(card.digest)
        path.write_bytes(data)
        self.gateway.catalogue.put(card, path)
        return card

    async def close(self) -> None:
        gateway, self.gateway = self.gateway, None
        if gateway is not None:
            await gateway.aclose()


@pytest.fixture
async def sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Site, Site]]:
    monkeypatch.setattr(peers, "CALM", 0.01)
    create_authority(tmp_path / "ca", "Ours")
    both = Site(tmp_path, "london"), Site(tmp_path, "paris")
    for site in both:
        issue(tmp_path / "ca", site.node, site.folder / "keys" / "tls")
    yield both
    for site in both:
        await site.close()


async def test_they_meet_share_part_and_come_back(sites: tuple[Site, Site]) -> None:
    london, paris = sites
    first = await london.open()
    card = london.share(DATA)
    second = await paris.open(f"london@127.0.0.1:{first.server.port}")
    await until(lambda: paris.cards.get("london") == (card,), "its card is on offer")
    assert second.peers.here == {"london": first.endpoint.uri}
    assert first.endpoint.tls

    with pytest.raises(Untrusted):
        await asyncio.to_thread(second.client.fetch_skill, "banking")
    trust.add(paris.folder / "keys" / "trusted", first.key.public, "london")
    fetched = await asyncio.to_thread(second.client.fetch_skill, "london/banking")
    assert fetched.path == paris.store.path(card.digest)
    assert fetched.path.read_bytes() == DATA
    trust.remove(paris.folder / "keys" / "trusted", "london")
    fetched.path.unlink()
    with pytest.raises(Untrusted):
        await asyncio.to_thread(second.client.fetch_skill, "banking")

    port = first.server.port
    await london.close()
    await until(lambda: second.peers.here == {}, "it has left")
    await london.open(port=port)
    await until(lambda: second.peers.here.keys() == {"london"}, "it is back")
    await until(lambda: paris.cards.get("london") == (), "without cards until it is told of them")


async def test_it_stops_in_the_middle_of_what_it_gives_and_takes(
    sites: tuple[Site, Site],
) -> None:
    london, paris = sites
    first = await london.open(egress=400_000)  # five seconds for the card
    london.share(DATA)
    trust.add(paris.folder / "keys" / "trusted", first.key.public)
    second = await paris.open(f"127.0.0.1:{first.server.port}", fetch_timeout=30.0)
    await until(lambda: "london" in paris.cards, "its card is on offer")
    fetching = asyncio.create_task(asyncio.to_thread(second.client.fetch_skill, "banking"))
    await until(lambda: first.server.transfers == 1, "it is being served")
    async with asyncio.timeout(4):
        await london.close()
        with pytest.raises(FederationError):
            await fetching
    assert paris.store.digests() == []
    assert list((paris.folder / "incoming").iterdir()) == []

    first = await london.open(egress=400_000)
    london.share(DATA)
    await second.aclose()
    paris.cards.clear()
    second = await paris.open(f"127.0.0.1:{first.server.port}")
    await until(lambda: "london" in paris.cards, "its card is on offer")
    fetching = asyncio.create_task(asyncio.to_thread(second.client.fetch_skill, "banking"))
    await until(lambda: first.server.transfers == 1, "it is being served")
    async with asyncio.timeout(4):
        await paris.close()
        with pytest.raises(FederationError):
            await fetching
    await until(lambda: first.server.transfers == 0, "nobody is served")
    assert list((paris.folder / "incoming").iterdir()) == []
    await until(lambda: not threads("fetch"), "no thread is left")


async def test_what_forbids_it_to_federate_is_one_sentence(
    sites: tuple[Site, Site], tmp_path: Path
) -> None:
    london, paris = sites
    gateway = await london.open()
    with pytest.raises(ServerError, match="cannot be bound"):
        await paris.open(port=gateway.server.port)
    with pytest.raises(FederationError, match="is for the node paris"):
        await Site(tmp_path, "paris").open(node="berlin")
    alone = Site(tmp_path, "alone")
    with pytest.raises(ServerError, match="without certificates"):
        await alone.open(host="192.0.2.1")
    (alone.folder / "keys" / "node.key").write_text("no key")
    with pytest.raises(KeyFileError):
        await alone.open()


async def test_one_who_knows_himself_is_no_peer_of_himself(tmp_path: Path) -> None:
    site = Site(tmp_path, "alone")
    gateway = await site.open()
    port = gateway.server.port
    await site.close()
    gateway = await site.open(f"127.0.0.1:{port}", f"alone@127.0.0.1:{port}", port=port)
    await until(lambda: not gateway.peers._places, "it does not follow itself")
    assert gateway.peers.here == {}
    assert NodeKey.load_or_create(site.folder / "keys" / "node.key").public == gateway.key.public
    await site.close()
