"""The skills of a fleet, who serves them, and what its peers offer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from lora.authors import moment
from schemas import (
    AdapterLoaded,
    AdapterUnloaded,
    BaseModelRef,
    Event,
    FleetHeartbeat,
    ListedCard,
    PeerJoined,
    PeerLeft,
    SkillCard,
    SkillDiscovered,
    SkillInstalled,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetired,
)
from services.runtime.fleet_view_loop import figure
from services.runtime.fleet_view_status import OfferedSkill, PeerStatus, SkillStatus

__all__ = ["Peers", "Skills"]

SERVING: Final = ("installed", "kept")

MOST: Final = 4096
"""Cards that are remembered, those out of service only as long as there is room."""

GONE: Final = 50
"""Cards out of service that are shown, the newest."""

DESCRIPTION: Final = 500
"""Characters of a description that are shown."""

PEERS: Final = 256

OFFERS: Final = 512
"""Cards of one peer that are shown."""

OFFERED: Final = 35.0
"""Seconds after which an offer is over that was not repeated; by default they come every 10."""


@dataclass(frozen=True)
class _Skill:
    card: SkillCard
    """Without prototypes and boundary, most of its bytes."""
    state: str
    peer: str | None = None
    pinned: bool = False


class Skills:
    """The manager's list, and what was said since."""

    def __init__(self) -> None:
        self._skills: OrderedDict[str, _Skill] = OrderedDict()
        self._retired: OrderedDict[str, None] = OrderedDict()
        """Digests that were: a list may be older than what the journal has told."""
        self._workers: dict[str, set[str]] = {}
        """Digests, or their first 12 digits, that each encoder has mapped."""

    def listed(self, cards: Iterable[ListedCard]) -> None:
        """The manager's own word."""
        for card in cards:
            if card.digest in self._retired and card.state != "retired":
                continue
            self._put(_Skill(_slim(card), card.state, card.peer, card.pinned))

    def hear(self, event: Event[Any]) -> None:
        """What was said of a skill."""
        match event.data:
            case SkillPublished(card=card) if card.digest not in self._skills:
                self._put(_Skill(_slim(card), "pending"))
            case SkillInstalled(card=card, peer=peer):
                known = self._skills.get(card.digest)
                pinned = known is not None and known.pinned
                self._put(_Skill(_slim(card), "installed", peer, pinned))
                self._rank(card.name, card.signer)
            case SkillRetired(digest=digest):
                self._retired[digest] = None
                while len(self._retired) > MOST:
                    self._retired.popitem(last=False)
                self._change(digest, state="retired", pinned=False)
            case SkillRejected(digest=digest) if self._state(digest) == "pending":
                self._change(digest, state="rejected")
            case SkillPin(digest=digest, pinned=pinned) if self._state(digest) in SERVING:
                self._change(digest, pinned=pinned)
            case AdapterLoaded(worker=worker, digest=digest):
                self._workers.setdefault(worker, set()).add(digest[7:19])
            case AdapterUnloaded(worker=worker, digest=digest):
                self._workers.setdefault(worker, set()).discard(digest[7:19])

    def beat(self, data: FleetHeartbeat) -> None:
        """An encoder tells what it has mapped, up to a number; of more, events tell the rest."""
        if data.service != "encoder":
            return
        worker = f"encoder-{data.instance}"
        if data.state == "stopped":
            self._workers.pop(worker, None)
            return
        told = {key.removeprefix("card:") for key in data.counters if key.startswith("card:")}
        if data.counters.get("cards", 0) <= len(told):
            self._workers[worker] = told
        else:
            self._workers.setdefault(worker, set()).update(told)

    def alive(self, workers: Iterable[str]) -> None:
        """Only these encoders serve: what others had mapped is gone with them."""
        here = set(workers)
        for gone in [worker for worker in self._workers if worker not in here]:
            del self._workers[gone]

    def model(self) -> BaseModelRef | None:
        """The model that the newest card in service was made for."""
        serving = [it.card for it in self._skills.values() if it.state in SERVING]
        newest = max(serving, key=lambda card: moment(card.created), default=None)
        return None if newest is None else newest.base_model

    def snapshot(self) -> tuple[SkillStatus, ...]:
        """The cards in service, then those that wait, then the newest of the others."""
        order = {"installed": 0, "kept": 1, "pending": 2}
        found = sorted(
            self._skills.values(),
            key=lambda it: (
                order.get(it.state, 3),
                it.card.name,
                it.card.signer or "",
                -it.card.version,
            ),
        )
        here = [it for it in found if it.state in order]
        gone = [it for it in found if it.state not in order]
        gone.sort(key=lambda it: moment(it.card.created), reverse=True)
        return tuple(self._told(it) for it in here + gone[:GONE])

    def _told(self, skill: _Skill) -> SkillStatus:
        card, digits = skill.card, skill.card.digest[7:19]
        holders = [name for name, held in self._workers.items() if digits in held]
        return SkillStatus(
            name=card.name,
            version=card.version,
            digest=card.digest,
            state=skill.state,
            pinned=skill.pinned,
            rank=card.rank,
            bytes=card.bytes,
            description=card.description[:DESCRIPTION],
            applies_to=card.applies_to,
            before=figure(card.metrics.get("before")),
            after=figure(card.metrics.get("after")),
            gain=figure(card.metrics.get("gain")),
            low=figure(card.metrics.get("low")),
            high=figure(card.metrics.get("high")),
            parents=card.parents,
            created=card.created,
            signer=card.signer,
            peer=skill.peer,
            workers=tuple(sorted(f"encoder/{name.removeprefix('encoder-')}" for name in holders)),
        )

    def _state(self, digest: str) -> str | None:
        known = self._skills.get(digest)
        return None if known is None else known.state

    def _put(self, skill: _Skill) -> None:
        self._skills[skill.card.digest] = skill
        while len(self._skills) > MOST:
            out = (it for it, known in self._skills.items() if known.state not in SERVING)
            del self._skills[next(out, next(iter(self._skills)))]

    def _change(self, digest: str, **changes: Any) -> None:
        known = self._skills.get(digest)
        if known is not None:
            self._skills[digest] = replace(known, **changes)
            self._rank(known.card.name, known.card.signer)

    def _rank(self, name: str, signer: str | None) -> None:
        """Of one author's versions in service the newest is installed, the others are kept."""
        versions = [
            it
            for it in self._skills.values()
            if it.state in SERVING and (it.card.name, it.card.signer) == (name, signer)
        ]
        newest = max(versions, key=lambda it: it.card.version, default=None)
        for it in versions:
            state = "installed" if it is newest else "kept"
            self._skills[it.card.digest] = replace(it, state=state)


@dataclass
class _Peer:
    endpoint: str | None
    offers: dict[str, tuple[float, OfferedSkill]]


class Peers:
    """Who joined, and what is on offer; `now` is monotonic, in seconds."""

    def __init__(self, patience: float = OFFERED) -> None:
        """`patience`: seconds for which an offer holds that is not repeated."""
        self._patience = patience
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def hear(self, event: Event[Any], now: float) -> None:
        """A peer comes, goes, or offers a card."""
        match event.data:
            case PeerJoined(peer=name, endpoint=endpoint):
                self._peer(name).endpoint = endpoint
            case PeerLeft(peer=name):
                self._peers.pop(name, None)
            case SkillDiscovered(peer=name, card=card):
                peer = self._peer(name)
                offer = OfferedSkill(name=card.name, version=card.version, digest=card.digest)
                if card.digest in peer.offers or len(peer.offers) < OFFERS:
                    peer.offers[card.digest] = now, offer

    def forget(self) -> None:
        """The gateway is another process: it tells again who is there."""
        self._peers.clear()

    def snapshot(self, now: float) -> tuple[PeerStatus, ...]:
        """Every peer, by name, with what it offers still."""
        told = []
        for name, peer in sorted(self._peers.items()):
            for digest, (at, _) in list(peer.offers.items()):
                if now - at > self._patience:
                    del peer.offers[digest]
            if peer.endpoint is None and not peer.offers:
                del self._peers[name]
                continue
            skills = sorted((it for _, it in peer.offers.values()), key=_named)
            told.append(PeerStatus(peer=name, endpoint=peer.endpoint, skills=tuple(skills)))
        return tuple(told)

    def _peer(self, name: str) -> _Peer:
        peer = self._peers.setdefault(name, _Peer(None, {}))
        self._peers.move_to_end(name)
        while len(self._peers) > PEERS:
            self._peers.popitem(last=False)
        return peer


def _named(skill: OfferedSkill) -> tuple[str, int, str]:
    return skill.name, -skill.version, skill.digest


def _slim(card: SkillCard) -> SkillCard:
    fields = {name: getattr(card, name) for name in SkillCard.__struct_fields__}
    return SkillCard(**fields | {"prototypes": "", "boundary": ""})
