"""Fetches peers' cards: verified as they stream, kept by digest, from the fastest that has them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from lora.card import EXTENSION
from schemas import SkillCard
from services.federation import manifest
from services.federation.connection import Connection
from services.federation.credentials import Credentials
from services.federation.download import Download, Pace
from services.federation.errors import (
    Altered,
    CardRefused,
    FederationError,
    NotOffered,
    Oversized,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
    WrongModel,
)
from services.federation.limits import Bucket, Slots
from services.federation.protocol import Endpoint, Health

__all__ = ["Fetched", "LoRAFlightClient", "Remote"]

ATTEMPTS: Final = 3
"""Times that a transfer is taken up again with one peer, each where the last was cut."""

PAUSE: Final = 0.2
"""Seconds before the next attempt; doubles."""

DISTRUST: Final = 60.0
"""Seconds for which a peer that failed is asked after those that did not."""

RESERVE: Final = 64 << 20
"""Bytes of the disk that stay free."""


class Remote(NamedTuple):
    """A card that a peer offers, and who."""

    peer: str
    card: SkillCard


class Fetched(NamedTuple):
    """A card that is here now, its bytes verified and not parsed yet."""

    card: SkillCard
    path: Path
    peer: str
    """Who gave the last of it; empty where it was here already."""
    seconds: float
    """From the call to the file in its place, on the disk."""
    streaming: float = 0.0
    """Of these, until the last byte was hashed and written."""


@dataclass
class _Peer:
    connection: Connection
    cards: tuple[SkillCard, ...] = ()
    speed: float = 0.0
    """Bytes a second of its last transfers; 0 where there was none."""
    latency: float = 1.0
    """Seconds that it took to tell how it is."""
    failed: float = field(default=-1e9)
    """When a transfer from it failed last."""


class LoRAFlightClient:
    """Peers by name, and what they offer. Blocking and thread-safe.

    `cache` is the content-addressed folder: a card lies in it under its digest, or not at all.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        trusted: Callable[[str], bool],
        model: str | None = None,
        incoming: str | Path | None = None,
        credentials: Credentials | None = None,
        max_bytes: int = 256 << 20,
        max_cards: int = 256,
        pace: Pace | None = None,
        slots: Slots | None = None,
        ingress: Bucket | None = None,
    ) -> None:
        """`trusted` says whether a public key's cards are believed; `model` is the SHA-256 that
        cards must be made for; `incoming`, on the disk of `cache`, holds what is under way."""
        self.cache = Path(cache)
        self.incoming = Path(incoming or self.cache / "incoming")
        for folder in (self.cache, self.incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.incoming.glob("*.part"):
            left.unlink()
        self._trusted = trusted
        self._model = model
        self._credentials = credentials
        self._max_bytes = max_bytes
        self._max_cards = max_cards
        self._pace = pace or Pace()
        self._slots = slots or Slots(4, 2)
        self._ingress = ingress or Bucket(0)
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._closed = False
        self._parts = 0

    # Peers ------------------------------------------------------------------------------------

    def introduce(self, endpoint: Endpoint) -> Health:
        """Who is there, whose name is not known yet. Raises a `PeerError`."""
        connection = Connection(endpoint, credentials=self._credentials)
        try:
            return connection.health()
        finally:
            connection.close()

    def add_peer(
        self,
        peer: str,
        endpoint: Endpoint,
        check: Callable[[Health], None] = lambda _: None,
    ) -> Health:
        """Connect to a peer, in place of what it was before, and hear how it is.

        With mutual TLS its certificate must bear that name. Raises a `PeerError`, or what `check`
        raises; then all stays as it was.
        """
        connection = Connection(endpoint, node=peer, credentials=self._credentials)
        started = time.monotonic()
        try:
            health = connection.health()
            check(health)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if self._closed:
                connection.close()
                raise PeerUnreachable("this node leaves")
            before = self._peers.get(peer)
            self._peers[peer] = _Peer(
                connection,
                cards=before.cards if before else (),
                speed=before.speed if before else 0.0,
                latency=time.monotonic() - started,
            )
        if before is not None:
            before.connection.close()
        return health

    def remove_peer(self, peer: str) -> None:
        """Forget a peer; transfers from it end. Absent is no error."""
        with self._lock:
            gone = self._peers.pop(peer, None)
        if gone is not None:
            gone.connection.close()

    def close(self) -> None:
        """Forget all peers, for good."""
        with self._lock:
            self._closed = True
        for peer in tuple(self._peers):
            self.remove_peer(peer)

    def health(self, peer: str) -> Health:
        """How a peer is now. Raises a `PeerError`."""
        known = self._known(peer)
        started = time.monotonic()
        health = known.connection.health()
        known.latency = time.monotonic() - started
        return health

    def list_remote_skills(self, peer: str | None = None) -> tuple[Remote, ...]:
        """What a peer, or every peer, offers now: claims, which `refusal` judges.

        Raises a `PeerError` where one `peer` was asked; of all of them, who does not answer is
        left out.
        """
        found = []
        for name in [peer] if peer is not None else sorted(self._peers):
            try:
                known = self._known(name)
                known.cards = known.connection.cards(self._max_cards)
            except PeerError:
                if peer is not None:
                    raise
                continue
            found += [Remote(name, card) for card in known.cards]
        return tuple(found)

    # Cards ------------------------------------------------------------------------------------

    def refusal(self, card: SkillCard) -> CardRefused | None:
        """Why an offered card would not be fetched: its size, its model, its signature."""
        try:
            self._judge(card)
        except CardRefused as error:
            return error
        return None

    def path(self, digest: str) -> Path:
        """Where a card of this digest lies, whether it is here or not."""
        return self.cache / (digest.removeprefix("sha256:") + EXTENSION)

    def fetch_skill(self, text: str, *, peer: str | None = None) -> Fetched:
        """Fetch the card of a `name`, `name@version`, `peer/name` or digest that a peer offers.

        Of several peers that hold it the fastest known is asked first, and where one fails, the
        next goes on from there. The file is in the cache when this returns: its bytes have the
        digest, and somebody trusted signed it. Raises a `CardRefused`, a `PeerError`, or a
        `FederationError` where the disk has no room.
        """
        started = time.monotonic()
        offers = self._offers(text, peer)
        card = offers[0].card
        self._judge(card)
        target = self.path(card.digest)
        if target.exists():
            return Fetched(card, target, "", time.monotonic() - started)
        download = self._begun(card)
        try:
            giver = self._download(download, [offer.peer for offer in offers])
            streaming = time.monotonic() - started
            download.finish(target)
        except OSError as error:
            raise FederationError(f"the card cannot be written: {error.strerror}") from error
        finally:
            download.abandon()
        return Fetched(card, target, giver, time.monotonic() - started, streaming)

    def _judge(self, card: SkillCard) -> None:
        if not 0 < card.bytes <= self._max_bytes:
            raise Oversized(
                f"it has {card.bytes} bytes, a card may have 1 to {self._max_bytes} here"
            )
        if self._model is not None and card.base_model.sha256 != self._model:
            raise WrongModel(
                f"it bends another model than is served here ({card.base_model.sha256[:12]!r}…)"
            )
        manifest.check(card, self._trusted)

    def _offers(self, text: str, peer: str | None) -> list[Remote]:
        """Who offers the card that is meant, the fastest first; all of them the same digest."""
        before, slash, name = text.rpartition("/")
        if slash:
            peer, text = before, name
        name, _, version = text.partition("@")
        with self._lock:
            found = [
                Remote(who, card)
                for who, known in self._peers.items()
                for card in known.cards
                if card.digest == text or (card.name == name and version in ("", str(card.version)))
            ]
            now = time.monotonic()
            order = {
                who: (now - known.failed < DISTRUST, -known.speed, known.latency)
                for who, known in self._peers.items()
            }
        sound = [remote for remote in found if self.refusal(remote.card) is None] or found
        asked = [remote for remote in sound if peer in (None, remote.peer)]
        if not asked:
            raise NotOffered(f"{text!r} is not on offer by {peer or 'any peer'}")
        best = max(asked, key=lambda r: (r.card.version, r.card.created, r.card.digest)).card
        return sorted(
            (remote for remote in sound if remote.card.digest == best.digest),
            key=lambda remote: (remote.peer != peer, *order[remote.peer]),
        )

    def _begun(self, card: SkillCard) -> Download:
        with self._lock:
            self._parts += 1
            part = self.incoming / f"{card.digest.removeprefix('sha256:')}.{self._parts}.part"
        try:
            free = shutil.disk_usage(self.incoming).free
            if free < card.bytes + RESERVE:
                raise FederationError(f"the disk has no room for the card's {card.bytes} bytes")
            return Download(card, part, pace=self._pace, ingress=self._ingress)
        except OSError as error:
            raise FederationError(f"the card cannot be written: {error.strerror}") from error

    def _download(self, download: Download, peers: Iterable[str]) -> str:
        """Fill the file, from one peer after another; who gave the last of it."""
        failures: list[FederationError] = []
        for peer in peers:
            try:
                known = self._known(peer)
                self._from_one(download, peer, known)
            except NotOffered:
                continue
            except PeerBusy as error:
                failures.append(PeerBusy(f"{peer}: {error}"))
            except (PeerError, Altered) as error:
                known.failed = time.monotonic()
                failures.append(type(error)(f"{peer}: {error}"))
            else:
                return peer
        if not failures:
            raise NotOffered("no peer offers it any more")
        raise next((one for one in failures if isinstance(one, Altered)), failures[-1])

    def _from_one(self, download: Download, peer: str, known: _Peer) -> None:
        with self._slots.hold(peer):
            for attempt in range(ATTEMPTS):
                before, started = download.received, time.monotonic()
                try:
                    download.attempt(known.connection)
                except Altered:
                    download.restart()
                    if before:  # somebody else's bytes may be at fault: once more, all from here
                        continue
                    raise
                except PeerMisbehaved:
                    download.restart()
                    raise
                except PeerError as error:
                    if attempt + 1 == ATTEMPTS or isinstance(error, NotOffered):
                        raise
                    if download.received == before and not isinstance(error, PeerBusy):
                        raise
                    time.sleep(PAUSE * 2**attempt)
                else:
                    seconds = max(time.monotonic() - started, 1e-6)
                    known.speed = (download.received - before) / seconds
                    return
            raise Altered("its bytes are not those of its digest, again and again")

    def _known(self, peer: str) -> _Peer:
        with self._lock:
            known = self._peers.get(peer)
        if known is None:
            raise NotOffered(f"there is no peer {peer!r}")
        return known
