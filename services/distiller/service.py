"""The distiller's process: keeps feedback, turns batches into datasets, asks for training."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bus import BusError, Closed, Delivery
from lora.errors import StoreError
from lora.model import find_model
from lora.training.dataset import TrainingSet
from lora.training.errors import TrainingError
from schemas import (
    BaseModelRef,
    DatasetRef,
    DomainForgotten,
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    Role,
    TrainingRequested,
    derived_id,
)
from services.distiller import datasets, orders, taught
from services.distiller.curiosity import material_of
from services.distiller.datasets import DatasetFolder
from services.distiller.errors import DeadlyOrderError
from services.distiller.experience import SCHEMA, Experience, ExperienceStore, Piece
from services.distiller.orders import Order, OrderStore, Wait
from services.distiller.skill_distiller import Distilled, SkillDistiller, Vectors
from services.distiller.taught import TaughtStore
from services.distiller.teacher import Contribution, Material, NoTeacher, teacher_of
from services.errors import ServiceError
from services.runtime import disk, forgetting
from services.runtime.client import FleetClient
from services.runtime.disk import disk_is_full, waiting_for_room
from services.runtime.forgetting import Forgetting
from services.runtime.handful import Handfuls, is_passing
from services.runtime.service import Context, Service
from services.runtime.shared import shared_datasets
from services.runtime.store import open_store, reading
from services.runtime.tracing import following, span, under

__all__ = ["Distiller"]

HANDFUL = 128
"""Events taken together: their texts share requests."""

ENCODE_DEADLINE_MS = 60_000
"""Long enough for a busy machine: what is given up is asked again from the start."""

RETRY = 2.0
"""Seconds until what failed is tried again."""

MAX_FAILURES = 3
"""So often an order is tried that fails for a reason that does not pass."""

MAX_DEATHS = 3
"""So often a dataset is begun at whose making the process dies: fewer times than end the fleet."""

BEFORE = "dissonance_monitor"
"""The service whose word is this one's turn to forget a domain."""

FORGOTTEN = "its domain was forgotten"
"""Why batches are rejected that were still owed a dataset."""

LOOKED_UP = 2048
"""Vectors read from the store at a time: between two such stretches others have their turn."""

Vector = npt.NDArray[np.float32]


class Distiller(Service):
    """Says `training.requested` and `learning.batch_rejected`."""

    name: ClassVar[str] = "distiller"
    single: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.counters = {"feedback": 0, "queries": 0, "datasets": 0, "rejected": 0, "orders": 0}
        self._client = FleetClient(self.bus, deadline_ms=ENCODE_DEADLINE_MS)
        self._teacher = teacher_of(self.settings, self.state.of(self.name))
        self._asks = not isinstance(self._teacher, NoTeacher)
        self._distiller = SkillDistiller(self.settings.distiller)
        self._changed = asyncio.Event()
        self._building = asyncio.Semaphore(1)  # a second one at once would make both slower
        self._saying = asyncio.Lock()
        """Held while the outbox is on its way to the bus."""
        self._barred: set[str] = set()
        """Domains that are being forgotten."""
        self._busy: dict[str, asyncio.Task[None]] = {}
        """Domains whose orders are in hand."""
        self._failures: dict[str, int] = {}
        self._later: dict[str, float] = {}
        """When a domain whose order failed is tried again, seconds since the epoch."""

    @property
    def queue(self) -> int:
        """Batches that are owed a dataset."""
        return int(self.counters["orders"])

    async def setup(self) -> None:
        """Open the store, know the model, take feedback and batches; go on with what is owed."""
        model = await asyncio.to_thread(find_model, self.settings.fleet.model)
        self._model = BaseModelRef(id=model.base_model.id, sha256=model.base_model.sha256)
        self._path = self.state.of(self.name) / "experience.sqlite"
        self._file = open_store(
            self._path,
            SCHEMA + datasets.SCHEMA + orders.SCHEMA + taught.SCHEMA + forgetting.SCHEMA,
        )
        self._store = ExperienceStore(self._file, self.settings.distiller.near_duplicate)
        self._store.serves(self._model.sha256)
        self._orders, self._taught = OrderStore(self._file), TaughtStore(self._file)
        self._datasets = DatasetFolder(
            self._file, self.state.datasets, shared_datasets(self.settings.store)
        )
        self._datasets.tidy()
        self._forgetting = Forgetting(
            self, self._file, after=BEFORE, erase=self._erase, quiet=self._quiet
        )
        await self._forgetting.catch_up()
        self._count()
        self.spawn(self._schedule(), "schedule")
        self.spawn(self._swept(), "sweep the store")
        kinds = (FeedbackJudged, LearningBatchQueued, DomainForgotten)
        handler = waiting_for_room(self._take, self.log)
        await Handfuls(self, kinds, handler, most=HANDFUL, bytes_of=_bytes).start()

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await super().aclose()
        await self._teacher.aclose()
        if hasattr(self, "_file"):
            self._file.close()

    def _count(self) -> None:
        self.counters |= self._store.counts() | {"orders": self._orders.owed()}

    # -- what comes in

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Keep what came, then acknowledge it: no feedback waits behind a dataset or a teacher.

        A batch brings its own pieces along: their `feedback.judged` may still be on its way.
        """
        events = [delivery.event for delivery in await self._forgetting.heed(deliveries)]
        batches = [event for event in events if isinstance(event.data, LearningBatchQueued)]
        pieces = [Piece.judged(e.data) for e in events if isinstance(e.data, FeedbackJudged)]
        pieces += [Piece.clashed(clash) for batch in batches for clash in batch.data.events]
        await self._vectors((piece.query for piece in pieces), "query")
        await self._vectors((text for piece in pieces for text in piece.passages), "document")
        self._store.learn(pieces)
        self._orders.admit(batches)
        await self.bus.ack(deliveries)
        self._count()
        if batches:
            self._changed.set()

    async def _vectors(self, texts: Iterable[str], role: Role) -> dict[str, Vector]:
        """Base vectors of texts, asked of the fleet where they are not kept yet."""
        wanted = list(dict.fromkeys(texts))
        known: dict[str, Vector] = {}
        for start in range(0, len(wanted), LOOKED_UP):
            known |= self._store.vectors(wanted[start : start + LOOKED_UP], role)
            await asyncio.sleep(0)
        missing = [text for text in wanted if text not in known]
        if missing:
            answer = await self._client.encode(missing, role=role, route="base")
            fresh = dict(zip(missing, answer.vectors, strict=True))
            self._store.keep_vectors(fresh, role)
            known |= fresh
        return known

    # -- one domain's orders at a time, several domains beside each other

    async def _schedule(self) -> None:
        while True:
            self._changed.clear()
            pause = await self._say_all()
            for domain, wait in self._orders.domains().items():
                if domain in self._busy or domain in self._barred:
                    continue
                left = self._due(domain, wait) - time.time()
                if left > 0:
                    pause = left if pause is None else min(pause, left)
                elif len(self._busy) < self.settings.distiller.teachers_at_once:
                    self._busy[domain] = self.spawn(self._work(domain, wait), f"distill {domain}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _due(self, domain: str, wait: Wait | None) -> float:
        """When a domain's order may be taken in hand, seconds since the epoch."""
        due = self._later.get(domain, 0.0)
        if wait is None or not self._asks or self.settings.teacher.unavailable != "wait":
            return due  # the settings may have changed since the wait began
        return max(due, min(wait.due, wait.since + self.settings.teacher.max_wait))

    async def _work(self, domain: str, wait: Wait | None) -> None:
        order = self._orders.of(domain)
        try:
            with following(order.batches[-1]):
                await self._tried(order, wait)
        finally:
            del self._busy[domain]
            self._changed.set()

    async def _tried(self, order: Order, wait: Wait | None) -> None:
        links = [batch.traceparent for batch in order.batches]
        facts = {"domain": order.domain, "batches": len(order.batches)}
        try:
            with span("distiller distil", links=links, **facts):
                await self._distill(order, wait)
            self._failures.pop(order.domain, None)
            self._later.pop(order.domain, None)
        except Closed:
            raise
        except Exception as error:
            self._not_distilled(order, error)

    def _not_distilled(self, order: Order, error: Exception) -> None:
        domain = order.domain
        if is_passing(error):
            self.log.info("an order waits for the fleet", domain=domain, why=str(error))
            self._later[domain] = time.time() + RETRY
            return
        if disk_is_full(error):
            self.log.error("the disk is full: an order waits", domain=domain, why=str(error))
            self._later[domain] = time.time() + disk.PATIENCE
            return
        expected = isinstance(error, ServiceError | BusError | TrainingError | OSError)
        self.log.warning("no dataset", domain=domain, why=str(error), exc_info=not expected)
        failures = self._failures.get(domain, 0) + 1
        if failures < MAX_FAILURES and not isinstance(error, DeadlyOrderError):
            self._failures[domain] = failures
            self._later[domain] = time.time() + RETRY * 2 ** (failures - 1)
            return
        why = f"its dataset could not be made: {str(error) or type(error).__name__}"
        self._orders.end(order, [self._refusal(batch, why) for batch in order.batches])
        self._failures.pop(domain, None)
        self._later.pop(domain, None)

    async def _say_all(self) -> float | None:
        """Publish the outbox; seconds until it should be tried again where that failed."""
        async with self._saying:
            said = self._orders.outbox()
            if said and not await self.publish_outbox(said):
                return RETRY
            self._have_said(said)
        return None

    def _have_said(self, said: Sequence[Event[Any]]) -> None:
        self._orders.said(said)
        self.counters["datasets"] += sum(isinstance(e.data, TrainingRequested) for e in said)
        self.counters["rejected"] += sum(isinstance(e.data, LearningBatchRejected) for e in said)
        self._count()

    # -- a domain that is to be forgotten

    @contextlib.asynccontextmanager
    async def _quiet(self, domain: str) -> AsyncIterator[None]:
        """Nothing of it is in hand, or with its teacher; what was to be said of it is said."""
        self._barred.add(domain)
        try:
            if work := self._busy.get(domain):
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            await self._datasets.withdraw(domain)
            await self._teacher.forget(domain)
            if self._teacher.name != "openai" and (self._path.parent / "teacher.sqlite").exists():
                from services.distiller.cloud import left  # of one that was switched off

                left.forget(self._path.parent, domain)
            async with self._saying:
                said = self._orders.outbox()
                await self.bus.publish(*said)
                self._have_said(said)
                yield
        finally:
            self._barred.discard(domain)
        for kept in (self._failures, self._later):
            kept.pop(domain, None)
        self._count()
        self._changed.set()

    def _erase(self, domain: str) -> int:
        pieces, keys = self._store.forget(domain)
        owed = self._orders.forget(domain, lambda batch: self._refusal(batch, FORGOTTEN))
        lessons = self._taught.forget(domain, keys)
        return pieces + owed + lessons + self._datasets.forget(domain)

    # -- from an order to a dataset

    async def _distill(self, order: Order, wait: Wait | None) -> None:
        """Ask the teacher, make the dataset, and end the order with what is to be said of it."""
        domain, prompts = order.domain, order.prompts
        if self._asks:
            self._taught.wonder(domain, self._teacher.name, "query", prompts, order.novel)
            backlog = self._taught.open(domain, self._teacher.name, "query")
            prompts = [*prompts, *(one.text for one in backlog)]
        experience = self._store.recall(domain, prompts, self.settings.distiller.replay_groups)
        if self._asks and await self._ask(order, experience, wait):
            return
        texts = {query.text for query in experience.queries} | set(experience.passages.values())
        lessons = await asyncio.to_thread(self._lessons, domain, texts)
        distilled = await self._distilled(order, experience, lessons)
        await self._conclude(order, distilled, self._taught.reason(domain) if self._asks else None)

    def _lessons(self, domain: str, texts: Collection[str]) -> dict[str, Contribution]:
        with reading(self._path) as file:
            return TaughtStore(file).lessons(domain, texts, self._teacher.name)

    async def _ask(self, order: Order, experience: Experience, wait: Wait | None) -> bool:
        """Have the teacher look at what is new; true where the order waits for it."""
        domain, name = order.domain, self._teacher.name
        self._taught.wonder(domain, name, "passage", experience.passages.values())
        vectors = await self._base(experience)
        material = await asyncio.to_thread(
            material_of,
            domain,
            self._taught.open(domain, name, "query"),
            self._taught.open(domain, name, "passage"),
            experience,
            vectors,
        )
        if not material.queries and not material.passages:
            return False
        contribution = await self._teach(material)
        self._taught.keep(domain, name, material, contribution)
        now = time.time()
        rules = self.settings.teacher
        since = now if wait is None else wait.since
        if contribution.again is None or rules.unavailable != "wait":
            return False
        if now >= since + rules.max_wait:
            return False
        due = min(max(contribution.again, now + RETRY), since + rules.max_wait)
        self._orders.wait(domain, Wait(since, due))
        self.log.info("an order waits for its teacher", domain=domain, why=contribution.reason)
        return True

    async def _teach(self, material: Material) -> Contribution:
        try:
            return await self._teacher.teach(material)
        except Exception as error:  # a teacher that breaks its promise holds nobody up
            self.log.exception("the teacher failed", domain=material.domain)
            reason = f"the teacher {self._teacher.name} failed: {type(error).__name__}"
            return Contribution(reason=reason, again=time.time())

    async def _base(self, experience: Experience) -> Vectors:
        return Vectors(
            await self._vectors((query.text for query in experience.queries), "query"),
            await self._vectors(experience.passages.values(), "document"),
        )

    async def _distilled(
        self, order: Order, experience: Experience, lessons: Mapping[str, Contribution]
    ) -> Distilled:
        queries, passages = await asyncio.to_thread(self._distiller.needed, experience, lessons)
        vectors = Vectors(
            await self._vectors(queries, "query"), await self._vectors(passages, "document")
        )
        async with self._building:
            with self._counted(order.domain):
                return await asyncio.to_thread(
                    self._distiller.distill,
                    experience,
                    lessons,
                    vectors,
                    batch=order.prompts,
                    metadata={
                        "domain": order.domain,
                        "teacher": self._teacher.name,
                        "base_model.id": self._model.id,
                        "base_model.sha256": self._model.sha256,
                    },
                )

    @contextlib.contextmanager
    def _counted(self, domain: str) -> Iterator[None]:
        """Only where the process dies in the block is the attempt remembered.

        Raises `DeadlyOrderError`: that has happened too often.
        """
        if self._orders.begin(domain) > MAX_DEATHS:
            raise DeadlyOrderError(f"the process died at it {MAX_DEATHS} times")
        try:
            yield
        finally:
            self._orders.survived(domain)

    async def _conclude(self, order: Order, distilled: Distilled, reason: str | None) -> None:
        """Write the dataset, refuse the batches of which nothing is in it, ask for training."""
        data = distilled.data
        good = [
            batch
            for batch in order.batches
            if any(clash.prompt in distilled.learnable for clash in batch.data.events)
        ]
        why = "no clash of the batch names a relevant passage: nothing can be learned from it"
        if good and len(data.passages) < 2:
            good, why = [], "the domain knows a single passage: there is nothing to rank"
        if reason is not None:
            why += f"; {reason}"
        said = [self._refusal(batch, why) for batch in order.batches if batch not in good]
        if good:
            digest = await self._written(data)
            self._datasets.keep(order.domain, digest, time.time())
            await self._swept()
            said.append(self._request(order.domain, good, distilled, digest, reason))
            self.log.info("dataset made", domain=order.domain, rows=data.rows, batches=len(good))
        self._orders.end(order, said)
        self._taught.settle(order.domain)

    async def _written(self, data: TrainingSet) -> str:
        """The digest of a dataset that was written, and is where factories find it; where this is
        cancelled, or fails, none is left."""
        writing = asyncio.create_task(asyncio.to_thread(data.write, self.state.datasets))
        try:
            digest = await asyncio.shield(writing)
        except asyncio.CancelledError:
            (made,) = await asyncio.gather(writing, return_exceptions=True)
            if isinstance(made, str):  # the thread cannot be stopped, and nobody knows the file
                self._datasets.abandon(made)
            raise
        sharing = asyncio.create_task(self._datasets.share(digest))
        try:
            await asyncio.shield(sharing)
        except BaseException:
            await asyncio.gather(sharing, return_exceptions=True)
            self._datasets.abandon(digest)
            raise
        return digest

    async def _swept(self) -> None:
        try:
            await self._datasets.sweep()
        except StoreError as error:
            self.log.info("old datasets stay in the store for now", why=str(error))

    def _request(
        self,
        domain: str,
        batches: Sequence[Event[LearningBatchQueued]],
        distilled: Distilled,
        digest: str,
        reason: str | None,
    ) -> Event[TrainingRequested]:
        """Named after the newest batch, so that doing it again asks for the same."""
        cause = under(batches[-1])
        return cause.derive(
            TrainingRequested(
                task_id=derived_id(cause.source, cause.id, TrainingRequested.type),
                skill=domain,
                domain=domain,
                dataset=DatasetRef(digest=digest, rows=distilled.data.rows),
                base_model=self._model,
                batch_ids=tuple(batch.data.batch_id for batch in batches),
                sources=dict(distilled.sources),
                teacher_reason=reason,
            ),
            source=self.source,
        )

    def _refusal(self, batch: Event[LearningBatchQueued], reason: str) -> Event[Any]:
        with following(batch):
            self.log.info("batch rejected", batch=batch.data.batch_id, why=reason)
        data = LearningBatchRejected(batch_id=batch.data.batch_id, reason=reason)
        return batch.derive(data, source=self.source)


def _bytes(delivery: Delivery) -> int:
    data = delivery.event.data
    if isinstance(data, FeedbackJudged):
        return sum(map(len, data.relevant)) + sum(map(len, data.irrelevant))
    if isinstance(data, DomainForgotten):
        return 0
    return sum(len(t) for clash in data.events for t in (*clash.positives, *clash.negatives))
