"""Everything of federation but the bus: key, trust, server, client, discovery, and who is there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from lora.store import CardStore
from services.federation import addresses
from services.federation.catalogue import Catalogue
from services.federation.client import LoRAFlightClient
from services.federation.credentials import Credentials
from services.federation.discovery import Discovery
from services.federation.download import Pace
from services.federation.errors import DiscoveryError
from services.federation.identity import NodeKey, default_node_name
from services.federation.limits import Bucket, Slots
from services.federation.peers import Heard, Peers
from services.federation.protocol import Endpoint
from services.federation.server import LOOPBACK, STALL, LoRAFlightServer, is_loopback
from services.federation.trust import TrustList
from services.runtime.settings_federation import PEER, FederationSettings

__all__ = ["Gateway"]


class Gateway:
    """One node of the federation, from `open` to `aclose`, both in one event loop."""

    def __init__(
        self,
        settings: FederationSettings,
        *,
        keys: Path,
        store: CardStore,
        incoming: Path,
        model: str | None,
        heard: Heard,
        log: Any,
    ) -> None:
        """`keys` is the folder of the node's key, its trust list and its certificates; `model` the
        SHA-256 of the base model that cards must bend. Raises a `FederationError`."""
        self._settings = settings
        self._log = log
        self.key = NodeKey.load_or_create(keys / "node.key")
        self.node = settings.node or default_node_name(self.key)
        self.trust = TrustList(
            keys / "trusted", self.key.public, report=lambda text: log.error("trust list", why=text)
        )
        self.credentials = Credentials.load(keys / "tls", self.node)
        self.catalogue = Catalogue(self.key.public, store.bring if store.fetches else None)
        self.client = LoRAFlightClient(
            store.folder,
            trusted=self.trust.accepts,
            model=model,
            incoming=incoming,
            credentials=self.credentials,
            max_bytes=settings.max_card_bytes,
            max_cards=settings.max_cards,
            pace=Pace(settings.fetch_timeout, settings.least_rate, settings.stall),
            slots=Slots(settings.fetches, max(1, settings.fetches // 2)),
            ingress=Bucket(settings.ingress),
        )
        self.server = LoRAFlightServer(
            self.catalogue,
            node=self.node,
            key=self.key.public,
            host=settings.host,
            port=settings.port,
            credentials=self.credentials,
            hosts=self._hosts,
            slots=Slots(settings.serves, settings.serves_each, stall=STALL),
            egress=Bucket(settings.egress),
        )
        self.peers = Peers(
            self.client,
            heard,
            key=self.key.public,
            interval=settings.sync_interval,
            most=settings.max_peers,
            log=log,
        )
        self._discovery: Discovery | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where this node listens."""
        return Endpoint(self.server.host, self.server.port, self.credentials is not None)

    async def open(self) -> None:
        """Serve, announce this node, and ask peers what they offer."""
        self.server.start()
        self._log.info(
            "federating",
            node=self.node,
            key=self.key.public,
            endpoint=self.endpoint.uri,
            trusted=len(self.trust.entries()),
        )
        if self.credentials is None:
            self._log.warning(
                "there are no certificates: only processes of this machine can be peers"
            )
        if not self.trust.entries():
            self._log.info("the trust list is empty: nobody's cards are accepted but this node's")
        for text in self._settings.peers:
            self._follow(text)
        if self._settings.discovery:
            await self._discover()

    async def aclose(self) -> None:
        """Leave: say goodbye, cut what is being transferred."""
        async with contextlib.AsyncExitStack() as stack:  # each, whatever becomes of the others
            stack.push_async_callback(asyncio.to_thread, self.server.stop)
            stack.push_async_callback(asyncio.to_thread, self.client.close)
            stack.push_async_callback(self.peers.aclose)
            if self._discovery is not None:
                stack.push_async_callback(self._discovery.aclose)

    def _follow(self, text: str) -> None:
        found = PEER.fullmatch(text)
        if found is None:  # the settings are checked when they are read
            raise ValueError(f"a peer is HOST:PORT or NODE@HOST:PORT, not {text!r}")
        host = found["six"] or found["host"]
        endpoint = Endpoint(host, int(found["port"]), self.credentials is not None)
        self.peers.follow(text, endpoint, found["node"])

    async def _discover(self) -> None:
        discovery = Discovery(
            self.node,
            self.key.fingerprint,
            self.server.port,
            tls=self.credentials is not None,
            loopback=is_loopback(self.server.host),
            found=self.peers.found,
            lost=self.peers.lost,
            log=self._log,
            advertise=self._settings.advertise,
            limit=4 * self._settings.max_peers,
        )
        try:
            await discovery.start()
        except DiscoveryError as error:
            self._log.warning("peers are not discovered, only asked", why=str(error))
            return
        self._discovery = discovery

    def _hosts(self) -> tuple[str, ...]:
        if self._settings.advertise is not None:
            return (self._settings.advertise,)
        if is_loopback(self.server.host):
            return (LOOPBACK,)
        return addresses.reachable(addresses.interfaces())
