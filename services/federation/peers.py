"""The nodes that are known: asked again and again how they are and what they offer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
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
"""Peers that are asked at a time, and strangers beside them."""

TRIED: Final = 4
"""Addresses that are tried for one question; the others with the next."""

CALM: Final = 0.1
"""Seconds at least between two questions, however often a peer announces itself."""

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
    claim: str | None = None
    """The name that it alone may bear, from the moment it was found to bear it."""
    node: str | None = None
    """Who is there now."""
    key: str | None = None
    """Its public key."""
    endpoint: Endpoint | None = None
    """The one that answered last."""
    revision: str = ""
    restless: int = 0
    """Questions in a row to which what it offers had changed."""
    list_at: float = 0.0
    """When its offers may be heard again, monotonic."""
    moved: bool = False
    failures: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def candidates(self) -> tuple[Endpoint, ...]:
        """Where to try next: where it announces itself, then where it was."""
        known = () if self.endpoint is None else (self.endpoint,)
        every = tuple(dict.fromkeys((*self.endpoints, *known)))
        if len(every) <= TRIED:
            return every
        start = self.failures * TRIED % len(every)
        return (every[start:] + every[:start])[:TRIED]


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
        # Strangers, who may be anybody's invention, keep nobody waiting but each other.
        self._threads = ThreadPoolExecutor(CALLS, thread_name_prefix="ask")
        self._strangers = ThreadPoolExecutor(CALLS, thread_name_prefix="meet")
        self._places: dict[str, _Place] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowded = False
        # Of several places that call themselves by one name, the first to say so has it; the
        # threads that connect settle that among themselves, before the client hears of any.
        self._claims: dict[str, _Place] = {}

    @property
    def here(self) -> dict[str, str]:
        """The peers that answer, and where."""
        return {
            node: place.endpoint.uri
            for node, place in self._claims.copy().items()
            if place.node is not None and place.endpoint is not None
        }

    def follow(self, name: str, endpoint: Endpoint, node: str | None = None) -> None:
        """Ask at a place that a person named `name`; `node` is who should be there."""
        self._put(name, _Place((endpoint,), node, lasting=True))

    def found(self, sighting: Sighting) -> None:
        """A node announces itself, or announces itself anew."""
        # Flight cannot write an address with a scope: it is told of only where there is no other.
        hosts = [it for it in sighting.addresses if "%" not in it] or sighting.addresses
        endpoints = tuple(Endpoint(host, sighting.port, sighting.tls) for host in hosts)
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
        for pool in (self._threads, self._strangers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _put(self, name: str, place: _Place) -> None:
        if len(self._places) >= self._most and not self._room():
            if not self._crowded:
                self._log.warning("more peers than are heeded", peer=name, most=self._most)
            self._crowded = True
            return
        self._crowded = False
        self._places[name] = place
        place.task = asyncio.create_task(self._follow(name, place), name=f"follow {name}")
        self._tasks.add(place.task)
        place.task.add_done_callback(self._tasks.discard)

    def _room(self) -> bool:
        """Forget who announced itself and was never reached; whether there was anybody."""
        idle = [
            name
            for name, place in self._places.items()
            if place.node is None and place.failures and not place.lasting
        ]
        if not idle:
            return False
        gone = self._places.pop(max(idle, key=lambda name: self._places[name].failures))
        gone.endpoints = ()  # what it is being asked is waited for: nothing is left half done
        gone.wake.set()
        return True

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
            if place.node is None:
                self._release(place)
            elif place.failures >= GONE or (place.failures and not place.endpoints):
                await self._leave(place)
            if not place.endpoints and place.node is None:
                break
            await self._pause(place)
        if self._places.get(name) is place:
            del self._places[name]

    async def _pause(self, place: _Place) -> None:
        await asyncio.sleep(CALM)
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
            health = await self._call(self._threads, self._client.health, place.node)
        if place.node is None:
            if self._places.get(name) is not place:
                raise PeerUnreachable("its place was given to another")
            await self._enter(name, place, health)
        elif health.node != place.node:
            raise PeerMisbehaved(f"it was {place.node!r} and now calls itself {health.node!r}")
        _check_key(place, health)
        await self._listen(place, health)

    async def _listen(self, place: _Place, health: Health) -> None:
        """Hear what it offers where that has changed; less and less often where it always has."""
        if health.revision == place.revision:
            place.restless = 0
            return
        if time.monotonic() < place.list_at:
            return
        remotes = await self._call(self._threads, self._client.list_remote_skills, health.node)
        await self._heard.offers(health.node, tuple(remote.card for remote in remotes))
        place.revision = health.revision
        place.restless = min(place.restless + 1, 10)
        pause = min(self._interval * (2**place.restless - 2), max(LONGEST, self._interval))
        place.list_at = time.monotonic() + pause

    async def _connect(self, place: _Place) -> Health:
        """Try some of the endpoints; raises the last one's error."""
        failure: FederationError = PeerUnreachable("it announces no address")
        pool = self._strangers if place.node is None else self._threads
        for endpoint in place.candidates():
            try:
                health = await self._call(pool, self._introduced, endpoint, place)
            except _OneselfError:
                raise
            except FederationError as error:
                failure = error
            else:
                place.endpoint, place.key = endpoint, health.key
                return health
        raise failure

    def _introduced(self, endpoint: Endpoint, place: _Place) -> Health:
        """In a thread: connect, and see that it is who it should be."""
        node = place.node or place.expected
        if node is None:
            node = self._client.introduce(endpoint).node
        if self._claims.get(node, place) is not place:
            raise _elsewhere(node)

        def check(health: Health) -> None:
            if health.key == self._key:
                raise _OneselfError("it is this node")
            if health.node != node:
                raise PeerMisbehaved(
                    f"{node!r} was expected there, it calls itself {health.node!r}"
                )
            if place.node is not None:  # it stays, whatever is announced in its name
                _check_key(place, health)
            elif place.fingerprint not in (None, fingerprint_of(health.key)):
                raise PeerMisbehaved("its key is not the one that it announces")
            if self._claims.setdefault(node, place) is not place:
                raise _elsewhere(node)
            place.claim = node

        return self._client.add_peer(node, endpoint, check)

    async def _enter(self, name: str, place: _Place, health: Health) -> None:
        place.node, place.revision = health.node, ""
        where = place.endpoint.uri if place.endpoint is not None else name
        self._log.info("peer joined", peer=health.node, endpoint=where, skills=health.cards)
        await self._heard.joined(health.node, where)

    async def _leave(self, place: _Place) -> None:
        node, place.node = place.node, None
        if node is None:
            return
        self._release(place)
        where = place.endpoint.uri if place.endpoint is not None else ""
        self._log.info("peer left", peer=node, endpoint=where)
        try:
            await self._heard.left(node, where)
        except Exception:
            self._log.exception("nobody could be told that a peer left", peer=node)

    def _release(self, place: _Place) -> None:
        """Let others have the name that a place claimed."""
        if place.claim is not None:
            self._client.remove_peer(place.claim)
            del self._claims[place.claim]
            place.claim = None

    async def _call(self, pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _check_key(place: _Place, health: Health) -> None:
    if health.key != place.key:
        raise PeerMisbehaved("its key is another one than when it joined")


def _elsewhere(node: str) -> FederationError:
    return FederationError(f"{node!r} is known at another place already")
