"""The monitor's process: takes feedback in handfuls, judges it, gathers clashes into batches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import numpy as np

from bus import BusError, Closed, Delivery
from schemas import (
    DomainForget,
    DomainForgotten,
    Event,
    FeedbackGiven,
    GenerationObserved,
    SkillInstalled,
    SkillListed,
    SkillRetired,
)
from services.dissonance_monitor import erasure, memory, store
from services.dissonance_monitor.embedding import Embedder, Served, together
from services.dissonance_monitor.judge import Piece, judge, scores_of, settled
from services.dissonance_monitor.memory import Asked, Memory, Neighbours, Vector
from services.dissonance_monitor.skills import Skills
from services.dissonance_monitor.store import Judgement, MonitorStore, cause_of
from services.dissonance_monitor.telling import tell, traced
from services.runtime import forgetting
from services.runtime.client import FleetClient
from services.runtime.disk import waiting_for_room
from services.runtime.forgetting import Forgetting, Mark
from services.runtime.handful import Handfuls
from services.runtime.service import Context, Service
from services.runtime.store import open_store

__all__ = ["DissonanceMonitor"]

HANDFUL = 64
"""Pieces judged together: their texts share requests."""

ENCODE_DEADLINE_MS = 60_000
"""Long enough for a busy machine: what is given up is asked again from the start. A process that
was killed is made up for sooner, because requests are sent again and reassigned meanwhile."""

PATIENCE = 2.0
"""Seconds until what the broker did not take, or the manager not answer, is tried again."""

LOOK = 60.0
"""Seconds after which the clock is looked at again: it may have been set, or the machine slept."""

DOMAINS = 32
"""Domains whose figures the heartbeat tells, those of which a piece was judged last."""

LAST = "factory"
"""The last service that says that it has forgotten a domain."""

GENERAL = "general"
"""The domain of what is given none and lies near no skill."""


class DissonanceMonitor(Service):
    """Says `feedback.judged`, `dissonance.detected` and `learning.batch_queued`."""

    name: ClassVar[str] = "dissonance_monitor"
    single: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rules = self.settings.monitor
        self.counters = {"judged": 0, "clashes": 0, "failures": 0, "batches": 0, "waiting": 0}
        self.counters["batch_size"] = self._rules.batch_size
        self._skills = Skills(self.settings.router.description_threshold)
        self._changed = asyncio.Event()
        self._saying = asyncio.Lock()
        """Held while batches of the outbox are on their way to the bus."""
        self._client = FleetClient(self.bus, deadline_ms=ENCODE_DEADLINE_MS)

    @property
    def queue(self) -> int:
        """Clashes in open batches."""
        return int(self.counters["waiting"])

    async def setup(self) -> None:
        """Open the store, say what was left unsaid, learn the skills, take feedback."""
        path = self.state.of(self.name) / "monitor.sqlite"
        self._file = open_store(path, memory.SCHEMA + store.SCHEMA + forgetting.SCHEMA)
        self._store = MonitorStore(self._file, self.source, self._rules)
        self._memory = Memory(self._file, self._rules.passage_memory)
        self._embedder = Embedder(self._client, self._memory)
        self._forgetting = Forgetting(
            self, self._file, after=None, erase=self._erase, quiet=self._quiet
        )
        await self._forgetting.catch_up()
        self._count_open()
        await self.listen((SkillInstalled, SkillRetired), self._learn)
        await self.listen(SkillListed, self._list, to=self.address)
        self.spawn(self._ask_skills(), "ask skills")
        self.spawn(self._tend(), "tend batches")
        kinds = (FeedbackGiven, GenerationObserved, DomainForget, DomainForgotten)
        handler = waiting_for_room(self._judge, self.log)
        await Handfuls(self, kinds, handler, most=HANDFUL, bytes_of=_bytes).start()

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await super().aclose()
        if hasattr(self, "_file"):
            self._file.close()

    async def _learn(self, event: Event[Any]) -> None:
        data = event.data
        if isinstance(data, SkillInstalled):
            self._skills.learn(data.card)
        else:
            self._skills.forget(data.digest)

    async def _ask_skills(self) -> None:
        while True:
            try:
                await self._client.skills()  # the answer, in one part or many, is heard by `_list`
                return
            except Closed:
                return
            except BusError as error:
                self.log.debug("skills not known yet", why=str(error))
                await asyncio.sleep(PATIENCE)

    async def _list(self, event: Event[SkillListed]) -> None:
        for card in event.data.cards:
            if card.state in ("installed", "kept"):
                self._skills.learn(card)

    # -- judging

    async def _judge(self, deliveries: Sequence[Delivery]) -> None:
        left = await self._forgetting.heed(deliveries)
        for delivery in deliveries:
            await self._clear_journal(delivery.event)
        causes = [cause_of(delivery.event) for delivery in left]
        said = {cause: self._store.known(cause) for cause in causes}
        fresh = [
            Piece.of(delivery.event)
            for delivery, cause in zip(left, causes, strict=True)
            if said[cause] is None
        ]
        judged = await traced(fresh, self._judged)
        self._store.record(judged, time.time())
        said |= {judgement.cause: judgement.events for judgement in judged}
        batches = self._store.outbox()
        await self.bus.ack(
            deliveries,
            publish=[event for events in said.values() for event in events or ()] + [*batches],
        )
        self._store.settle(causes, [batch.id for batch in batches])
        tell(self.log, judged, batches)
        self._count(judged, len(batches))

    def _count(self, judged: Sequence[Judgement], batches: int) -> None:
        clashes = [one.clash.data for one in judged if one.clash is not None]
        self.counters["judged"] += len(judged)
        self.counters["clashes"] += len(clashes)
        self.counters["failures"] += sum(clash.reason == "contradiction" for clash in clashes)
        self.counters["batches"] += batches
        self._count_open()
        self._changed.set()

    def _count_open(self) -> None:
        """What the heartbeat says of open batches: of all, and `open:NAME` and so on of each."""
        self.counters = {name: count for name, count in self.counters.items() if ":" not in name}
        self.counters["waiting"] = self._store.waiting()
        for domain in self._store.domains(DOMAINS):
            self.counters |= {
                f"open:{domain.name}": domain.open,
                f"judged:{domain.name}": domain.judged,
                f"clashes:{domain.name}": domain.clashes,
                f"last:{domain.name}": round(domain.last, 3),
            }

    async def _judged(self, pieces: Sequence[Piece]) -> list[Judgement]:
        if not pieces:
            return []
        served: list[Served]
        passages: dict[str, Vector]
        served, passages = await together(
            self._embedder.queries([(piece.query, piece.served) for piece in pieces]),
            self._embedder.passages(text for piece in pieces for text in piece.texts),
        )
        by_domain: dict[str, list[tuple[Piece, Served, float | None]]] = {}
        late: dict[str, list[Event[Any]]] = {}
        places = await self._skills.nearest(np.stack([one.base for one in served]))
        for piece, one, nearest in zip(pieces, served, places, strict=True):
            domain = piece.domain or nearest.domain or GENERAL
            if self._forgetting.covers(domain, piece.event):
                late.setdefault(domain, []).append(piece.event)
                continue
            by_domain.setdefault(domain, []).append((piece, one, nearest.novelty))
        for domain, events in late.items():
            await erasure.erase_given(
                self.bus, domain, self._mark(domain).upto, {event.id for event in events}
            )
        judgements: list[Judgement] = []
        for domain, asked in by_domain.items():
            self._memory.remember(
                domain,
                [Asked(piece.query, one.base, piece.relevant) for piece, one, _ in asked],
                {text: passages[text] for piece, _, _ in asked for text in piece.passages},
            )
            seed = cause_of(asked[0][0].event)
            sample = self._memory.sample(domain, self._rules.passage_sample, seed)
            near = self._memory.neighbours(domain)
            judgements += await asyncio.to_thread(
                self._scored, domain, asked, passages, sample, near
            )
        return judgements

    def _scored(
        self,
        domain: str,
        asked: Sequence[tuple[Piece, Served, float | None]],
        passages: Mapping[str, Vector],
        sample: Mapping[str, Vector],
        near: Neighbours,
    ) -> list[Judgement]:
        judgements = []
        for piece, served, novelty in asked:
            scores = scores_of(piece, served, passages, sample, near, novelty, self._rules)
            told = settled(piece, served, passages, scores, self._rules)
            judgements.append(judge(told, served, scores, domain, self.source, self._rules))
        return judgements

    # -- a domain that is to be forgotten

    @asynccontextmanager
    async def _quiet(self, domain: str) -> AsyncIterator[None]:
        async with self._saying:
            yield
        self._count_open()

    def _erase(self, domain: str) -> int:
        return self._store.forget(domain) + self._memory.forget(domain)

    def _mark(self, domain: str) -> Mark:
        return self._forgetting.mark(domain) or Mark(0, 0, 0)

    async def _clear_journal(self, event: Event[Any]) -> None:
        """Erase a domain from the journal once the last store has: nobody needs it any more."""
        data = event.data
        if not isinstance(data, DomainForgotten) or data.service != LAST:
            return
        async with self._saying:
            done = await erasure.erase(self.bus, data.domain, self._mark(data.domain))
        word = DomainForgotten(
            domain=data.domain, service="journal", erased=done.events, kept=done.kept
        )
        await self.bus.publish(event.derive(word, source=self.source))
        self.log.info(
            "domain erased from the journal",
            domain=data.domain,
            events=done.events,
            kept=done.kept,
        )

    # -- batches that come of age

    async def _tend(self) -> None:
        """Queue batches when their time comes, and say what an interruption left unsaid."""
        while True:
            self._changed.clear()
            self._store.form(time.time())
            pause = await self._say_batches()
            due = self._store.due()
            if pause is None and due is not None:
                pause = min(LOOK, max(0.0, due - time.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _say_batches(self) -> float | None:
        """Publish the outbox; seconds until it should be tried again where that failed."""
        async with self._saying:
            batches = self._store.outbox()
            if not batches:
                return None
            if not await self.publish_outbox(batches):
                return PATIENCE
            self._store.settle((), [batch.id for batch in batches])
        tell(self.log, (), batches)
        self.counters["batches"] += len(batches)
        self._count_open()
        return None


def _bytes(delivery: Delivery) -> int:
    data = delivery.event.data
    if isinstance(data, FeedbackGiven):
        return sum(map(len, data.relevant + data.irrelevant))
    if isinstance(data, GenerationObserved):
        return len(data.output) + len(data.reference)
    return 0
