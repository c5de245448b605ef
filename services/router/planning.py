"""Which cards make which row of a request, and why none does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lora.router import Decision
from schemas import AssignedRow, EncodeRequested, Role, SkillCard, SkillRef
from services.router.base_vectors import BaseVectors
from services.router.errors import Refused, UnknownSkill
from services.router.index import SkillIndex
from services.router.names import Directory, Found
from services.router.outstanding import Answer
from services.router.placement import Work, estimate, fingerprint

__all__ = ["Plan", "Planner", "work_of"]

HEAD_ONLY: Final = ("embedding",)

Ask = Callable[[Role, Sequence[str], datetime], Awaitable[Answer]]


class Fetcher(Protocol):
    """What is needed of `Peers`."""

    async def fetch(self, card: SkillCard, peer: str, *, named: bool) -> bool:
        """Wait for a peer's card; whether it came."""
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

    async def plan(self, data: EncodeRequested, deadline: datetime) -> Plan:
        """Raises `Refused`."""
        if data.route == "base":
            return _same(data, "base_requested")
        if data.route == "named":
            return await self._named(data)
        return await self._auto(data, deadline)

    # Named ------------------------------------------------------------------------------------

    async def _named(self, data: EncodeRequested) -> Plan:
        # Two names of one card stack it once.
        found = list({f.card.digest: f for f in map(self._resolve, data.skills)}.values())
        wanted = [(f.card, f.peer) for f in found if f.peer is not None]
        came = dict(
            zip(
                (card.digest for card, _ in wanted),
                await asyncio.gather(
                    *(self._fetcher.fetch(card, peer, named=True) for card, peer in wanted)
                ),
                strict=True,
            )
        )
        here = [f.card for f in found if came.get(f.card.digest, True)]
        cards = tuple(card for card in here if data.role in card.applies_to)
        if here and not cards:
            if data.role == "query":
                raise Refused(
                    "invalid", f"skill {here[0].name!r} applies to documents, not to queries"
                )
            return _same(data, "document")
        # A card that did not come is told even where another one made the row.
        reason = "peer_timeout" if len(here) < len(found) else None
        row = AssignedRow(skills=tuple((i, 1.0) for i in range(len(cards))), reason=reason)
        return Plan(cards, (row,) * len(data.texts))

    def _resolve(self, name: str) -> Found:
        try:
            return self._directory.resolve(name)
        except UnknownSkill as error:
            raise Refused("unknown_skill", str(error)) from error

    # Auto -------------------------------------------------------------------------------------

    async def _auto(self, data: EncodeRequested, deadline: datetime) -> Plan:
        if not self._routable(data.role):
            return _same(data, "document" if data.role == "document" else "no_skills")
        texts = data.texts if data.intent is None else (data.intent,)
        vectors = await self._base(data.role, texts, deadline)
        index = await self._index(vectors.shape[1])
        if index.empty(data.role):
            return _same(data, "document" if data.role == "document" else "no_skills")
        chosen = index.decide(data.role, vectors, data.top_k)
        late: set[int] = set()
        offered = {match.digest: match for row in chosen for match in row.matches if match.virtual}
        if offered:
            came = await asyncio.gather(*map(self._fetch, offered))
            failed = {digest for digest, here in zip(offered, came, strict=True) if not here}
            late = {
                i for i, row in enumerate(chosen) if any(m.digest in failed for m in row.matches)
            }
            chosen = index.decide(data.role, vectors, data.top_k, offers=False)
        return self._plan(data, chosen, late)

    async def _fetch(self, digest: str) -> bool:
        offer = self._directory.offer_of(digest)
        if offer is None or offer.peer is None:
            return digest in self._directory
        return await self._fetcher.fetch(offer.card, offer.peer, named=False)

    async def _base(
        self, role: Role, texts: Sequence[str], deadline: datetime
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
            answer = await self._ask(role, missing, deadline)
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
