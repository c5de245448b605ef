"""Which cards make which row of a request, and why none does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lora.router import Decision
from schemas import AssignedRow, EncodeRequested, Role, SkillCard, SkillRef, now
from services.router.base_vectors import BaseVectors
from services.router.errors import Refused, UnknownSkill
from services.router.names import Directory
from services.router.offers import Found
from services.router.outstanding import Answer
from services.router.placement import Work, estimate, fingerprint
from services.runtime.skill_index import SkillIndex

__all__ = ["Plan", "Planner", "work_of"]

HEAD_ONLY: Final = ("embedding",)

ROUNDS: Final = 8
"""So many times offers that are not waited for make way for others before the best are given up."""

Ask = Callable[[Role, Sequence[str], datetime, str], Awaitable[Answer]]


class Fetcher(Protocol):
    """What is needed of `Peers`."""

    async def fetch(self, card: SkillCard, peer: str, *, named: bool, patience: float) -> bool:
        """Wait for a peer's card, at most `patience` seconds; whether it came."""
        ...

    def paused(self, digest: str, peer: str) -> bool:
        """Whether a peer's card is not waited for where routing alone wants it."""
        ...


class Plan(NamedTuple):
    """The cards of a request and how they share its rows."""

    cards: tuple[SkillCard, ...]
    rows: tuple[AssignedRow, ...]

    @property
    def skills(self) -> tuple[SkillRef, ...]:
        """The cards as an assignment names them."""
        return tuple(
            SkillRef(digest=card.digest, name=card.name, version=card.version)
            for card in self.cards
        )


def _same(data: EncodeRequested, reason: str) -> Plan:
    return Plan((), (AssignedRow(reason=reason),) * len(data.texts))


class Planner:
    """Turns a checked request into a plan; asks for base vectors and peers' cards on the way."""

    def __init__(
        self,
        *,
        directory: Directory,
        vectors: BaseVectors,
        ask: Ask,
        fetcher: Fetcher,
        index: Callable[[int], Awaitable[SkillIndex]],
        routable: Callable[[Role], bool],
    ) -> None:
        """`index` gives the semantic index for a width of base vectors, `routable` whether any
        skill may be routed to in a role."""
        self._directory = directory
        self._vectors = vectors
        self._ask = ask
        self._fetcher = fetcher
        self._index = index
        self._routable = routable

    async def plan(self, data: EncodeRequested, deadline: datetime, client: str = "") -> Plan:
        """Raises `Refused`. What it takes to decide takes the turn of `client`."""
        plan = self.at_once(data)
        if plan is not None:
            return plan
        if data.route == "named":
            return await self._named(data, deadline)
        return await self._auto(data, deadline, client)

    def at_once(self, data: EncodeRequested) -> Plan | None:
        """The plan of a request that no skill can have a part in; None where one might."""
        if data.route == "base":
            return _same(data, "base_requested")
        if data.route == "auto" and not self._routable(data.role):
            return _same(data, "document" if data.role == "document" else "no_skills")
        return None

    # Named ------------------------------------------------------------------------------------

    async def _named(self, data: EncodeRequested, deadline: datetime) -> Plan:
        # Two names of one card stack it once.
        found = {f.card.digest: (name, f) for name in data.skills for f in (self._resolve(name),)}
        came = await asyncio.gather(
            *(self._come(found, deadline, named=True) for _, found in found.values())
        )
        # Of a skill that a peer has in a newer version the one that is here is better than none.
        here = {
            card.digest: card
            for (name, f), is_here in zip(found.values(), came, strict=True)
            for card in (self._here(f) if is_here else self._directory.instead_of(name),)
            if card is not None
        }.values()
        cards = tuple(card for card in here if data.role in card.applies_to)
        if here and not cards:
            if data.role == "query":
                name = next(iter(here)).name
                raise Refused("invalid", f"skill {name!r} applies to documents, not to queries")
            return _same(data, "document")
        # A card that did not come is told even where another one made the row.
        reason = None if all(came) else "peer_timeout"
        row = AssignedRow(skills=tuple((i, 1.0) for i in range(len(cards))), reason=reason)
        return Plan(cards, (row,) * len(data.texts))

    def _resolve(self, name: str) -> Found:
        try:
            return self._directory.resolve(name)
        except UnknownSkill as error:
            raise Refused("unknown_skill", str(error)) from error

    def _here(self, found: Found) -> SkillCard:
        """As its own file describes it: what a peer said of it was a claim."""
        return self._directory.get(found.card.digest) or found.card

    # Auto -------------------------------------------------------------------------------------

    async def _auto(self, data: EncodeRequested, deadline: datetime, client: str) -> Plan:
        texts = data.texts if data.intent is None else (data.intent,)
        vectors = await self._base(data.role, texts, deadline, client)
        index = await self._index(vectors.shape[1])
        if index.empty(data.role):
            return _same(data, "document" if data.role == "document" else "no_skills")
        chosen = index.decide(data.role, vectors, data.top_k)
        if not any(match.virtual for row in chosen for match in row.matches):
            return self._plan(data, chosen, set())
        wanted, best, passed = self._offered(chosen), chosen, set[str]()
        for _ in range(ROUNDS):
            paused = {it for it, found in wanted.items() if self._paused(it, found)}
            if not paused:
                break
            passed |= paused
            best = index.decide(data.role, vectors, data.top_k, without=passed)
            wanted = self._offered(best)
        came = await asyncio.gather(
            *(self._come(found, deadline, named=False) for found in wanted.values())
        )
        failed = passed | {it for it, here in zip(wanted, came, strict=True) if not here}
        late = {
            i
            for i, rows in enumerate(zip(chosen, best, strict=True))
            if any(match.digest in failed for row in rows for match in row.matches)
        }
        chosen = index.decide(data.role, vectors, data.top_k, offers=False)
        return self._plan(data, chosen, late)

    def _offered(self, chosen: Sequence[Decision]) -> dict[str, Found]:
        """The cards among those chosen that only peers have; of each a peer that is not paused,
        where there is one."""
        digests = {match.digest for row in chosen for match in row.matches if match.virtual}
        offered = {}
        for digest in sorted(digests):
            offers = self._directory.offers_of(digest)
            eager = [offer for offer in offers if not self._paused(digest, offer)]
            if offers:
                offered[digest] = (*eager, *offers)[0]
        return offered

    def _paused(self, digest: str, found: Found) -> bool:
        return found.peer is not None and self._fetcher.paused(digest, found.peer)

    async def _come(self, found: Found, deadline: datetime, *, named: bool) -> bool:
        """Whether a card is here, or came within half of the time that is left: what is left then
        is for answering without it."""
        if found.peer is None:
            return True
        patience = max((deadline - now()) / timedelta(seconds=2), 0.0)
        return await self._fetcher.fetch(found.card, found.peer, named=named, patience=patience)

    async def _base(
        self, role: Role, texts: Sequence[str], deadline: datetime, client: str
    ) -> NDArray[np.float32]:
        """(n, dim) base vectors, from the cache or from an encoder."""
        fresh: dict[str, NDArray[np.float32]] = {}
        missing = self._vectors.missing(role, texts)
        known = {
            text: held.vector
            for text in texts
            if text not in missing and (held := self._vectors.get(role, text)) is not None
        }
        if missing:
            answer = await self._ask(role, missing, deadline, client)
            for text, vector in zip(missing, answer.vectors, strict=True):
                fresh[text] = vector
                self._vectors.put(role, text, vector, answer.worker)
        return np.stack([known[text] if text in known else fresh[text] for text in texts])

    def _plan(self, data: EncodeRequested, chosen: Sequence[Decision], late: set[int]) -> Plan:
        cards: dict[str, int] = {}
        rows = []
        for i, decision in enumerate(chosen):
            skills = tuple(
                (cards.setdefault(match.digest, len(cards)), match.score)
                for match in decision.matches
            )
            reason = "peer_timeout" if i in late else decision.reason
            rows.append(AssignedRow(skills=skills, reason=None if skills else reason))
        # Nothing was waited for since they were selected: they are all there.
        found = [self._directory.get(digest) for digest in cards]
        return Plan(
            tuple(card for card in found if card is not None),
            tuple(rows) if data.intent is None else tuple(rows) * len(data.texts),
        )


def work_of(data: EncodeRequested, plan: Plan, vectors: BaseVectors) -> Work:
    """What a plan asks of a worker: rows without a body are free where the base vector is held."""
    lengths = [estimate(text) for text in data.texts]
    shallow = {i for i, card in enumerate(plan.cards) if card.target_modules == HEAD_ONLY}
    light = [
        (text, tokens)
        for text, tokens, row in zip(data.texts, lengths, plan.rows, strict=True)
        if all(i in shallow for i, _ in row.skills)
    ]
    return Work(
        tokens=sum(lengths),
        cards=tuple(card.digest for card in plan.cards),
        saved=vectors.saved(data.role, light),
        # Cards with a body have a favourite worker each; all else goes where its texts went before.
        tie="" if len(light) < len(data.texts) else fingerprint(data.role, data.texts),
    )
