"""The nodes that are known: asked again and again how they are and what they offer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from schemas import SkillCard
from services.federation.client import LoRAFlightClient
from services.federation.discovery import Sighting
from services.federation.errors import FederationError, PeerMisbehaved, PeerUnreachable
from services.federation.identity import fingerprint_of
from services.federation.protocol import Endpoint, Health

__all__ = ["Heard", "Peers"]

GONE: Final = 3
"""Questions in a row that a peer did not answer, after which it has left."""

LONGEST: Final = 60.0
"""Seconds between two attempts to reach a peer that is away."""

CALLS: Final = 8
"""Peers that are asked at a time."""

T = TypeVar("T")


class Heard(Protocol):
    """Who is told; for one peer one thing after another."""

    async def joined(self, peer: str, endpoint: str) -> None:
        """A peer answers for the first time."""
        ...

    async def offers(self, peer: str, cards: tuple[SkillCard, ...]) -> None:
        """What it offers, when it has joined and whenever that changes."""
        ...

    async def left(self, peer: str, endpoint: str) -> None:
        """It answers no more."""
        ...


class _OneselfError(FederationError):
    """The peer is this node."""


@dataclass
class _Place:
    """Where a peer is looked for."""

    endpoints: tuple[Endpoint, ...]
    expected: str | None
    """The node that should be there; None where a person gave an address alone."""
    fingerprint: str | None = None
    """Of the key that it announced."""
    lasting: bool = False
    """A person's word: looked at for as long as the process lives."""
    node: str | None = None
    """Who is there now."""
    endpoint: Endpoint | None = None
    """The one that answered last."""
    revision: str = ""
    moved: bool = False
    failures: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Peers:
    """Follows every place in a task of its own; call it in the event loop."""

    def __init__(
        self,
        client: LoRAFlightClient,
        heard: Heard,
        *,
        key: str,
        interval: float,
        most: int,
        log: Any,
    ) -> None:
        """`key` is this node's public key: it does not follow itself."""
        self._client = client
        self._heard = heard
        self._key = key
        self._interval = interval
        self._most = most
        self._log = log
        self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="ask")
        self._places: dict[str, _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._here: dict[str, _Place] = {}

    @property
    def here(self) -> dict[str, str]:
        """The peers that answer, and where."""
        return {
            node: place.endpoint.uri
            for node, place in self._here.items()
            if place.endpoint is not None
        }

    def follow(self, name: str, endpoint: Endpoint, node: str | None = None) -> None:
        """Ask at a place that a person named `name`; `node` is who should be there."""
        self._put(name, _Place((endpoint,), node, lasting=True))

    def found(self, sighting: Sighting) -> None:
        """A node announces itself, or announces itself anew."""
        endpoints = tuple(Endpoint(it, sighting.port, sighting.tls) for it in sighting.addresses)
        place = self._places.get(sighting.node)
        if place is None:
            self._put(sighting.node, _Place(endpoints, sighting.node, sighting.fingerprint))
            return
        place.endpoints, place.fingerprint = endpoints, sighting.fingerprint
        place.moved = place.endpoint not in endpoints
        place.wake.set()

    def lost(self, node: str) -> None:
        """A node announces itself no more; while it answers it stays."""
        place = self._places.get(node)
        if place is not None and not place.lasting:
            place.endpoints = ()
            place.wake.set()

    async def aclose(self) -> None:
        """Ask nobody any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _put(self, name: str, place: _Place) -> None:
        if len(self._places) >= self._most:
            self._log.warning("more peers than are heeded", peer=name, most=self._most)
            return
        self._places[name] = place
        task = asyncio.create_task(self._follow(name, place), name=f"follow {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, name: str, place: _Place) -> None:
        said = ""
        while True:
            try:
                await self._ask(name, place)
                place.failures, said = 0, ""
            except _OneselfError:
                break
            except FederationError as error:
                place.failures += 1
                if str(error) != said:
                    self._log.warning("peer not reached", peer=name, why=str(error))
                    said = str(error)
            except Exception:
                place.failures += 1
                self._log.exception("peer not heeded", peer=name)
            if place.node is not None and (
                place.failures >= GONE or (place.failures and not place.endpoints)
            ):
                await self._leave(place)
            if not place.endpoints and place.node is None:
                break
            await self._pause(place)
        del self._places[name]

    async def _pause(self, place: _Place) -> None:
        # Soon again while one that is here fails, then less and less often.
        longer = 2 ** min(max(0, place.failures - GONE), 10)
        seconds = min(self._interval * longer, max(LONGEST, self._interval))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.9, 1.1)):
                await place.wake.wait()
        place.wake.clear()

    async def _ask(self, name: str, place: _Place) -> None:
        if place.node is None or place.failures or place.moved:
            health = await self._connect(place)
            place.moved = False
        else:
            health = await self._call(self._client.health, place.node)
        if place.node is None:
            await self._enter(name, place, health)
        elif health.node != place.node:
            raise PeerMisbehaved(f"it was {place.node!r} and now calls itself {health.node!r}")
        if health.revision != place.revision:
            remotes = await self._call(self._client.list_remote_skills, health.node)
            await self._heard.offers(health.node, tuple(remote.card for remote in remotes))
            place.revision = health.revision

    async def _connect(self, place: _Place) -> Health:
        """Try the endpoints in turn; raises the last one's error."""
        failure: FederationError = PeerUnreachable("it announces no address")
        known = () if place.endpoint is None else (place.endpoint,)
        for endpoint in place.endpoints or known:
            try:
                health = await self._call(self._introduced, endpoint, place)
            except _OneselfError:
                raise
            except FederationError as error:
                failure = error
            else:
                place.endpoint = endpoint
                return health
        raise failure

    def _introduced(self, endpoint: Endpoint, place: _Place) -> Health:
        """In a thread: connect, and see that it is who it should be."""
        node = place.node or place.expected
        if node is None:
            node = self._client.introduce(endpoint).node
        known = self._here.get(node)
        if known is not None and known is not place:
            raise FederationError(f"{node!r} is known at another place already")
        health = self._client.add_peer(node, endpoint)
        try:
            if health.key == self._key:
                raise _OneselfError("it is this node")
            if health.node != node:
                raise PeerMisbehaved(
                    f"{node!r} was expected there, it calls itself {health.node!r}"
                )
            if place.fingerprint not in (None, fingerprint_of(health.key)):
                raise PeerMisbehaved("its key is not the one that it announces")
        except FederationError:
            self._client.remove_peer(node)
            raise
        return health

    async def _enter(self, name: str, place: _Place, health: Health) -> None:
        place.node, place.revision = health.node, ""
        self._here[health.node] = place
        where = place.endpoint.uri if place.endpoint is not None else name
        self._log.info("peer joined", peer=health.node, endpoint=where, skills=health.cards)
        await self._heard.joined(health.node, where)

    async def _leave(self, place: _Place) -> None:
        node, place.node = place.node, None
        if node is None:
            return
        del self._here[node]
        self._client.remove_peer(node)
        where = place.endpoint.uri if place.endpoint is not None else ""
        self._log.info("peer left", peer=node, endpoint=where)
        await self._heard.left(node, where)

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)
