"""The distiller's process: keeps feedback, turns batches into datasets, asks for training."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bus import Delivery
from lora.model import find_model
from lora.training.dataset import FEEDBACK, TrainingSet
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    Role,
    TrainingRequested,
    derived_id,
)
from services.distiller import datasets
from services.distiller.build import Vectors, build
from services.distiller.datasets import DatasetFolder
from services.distiller.experience import SCHEMA, Experience, ExperienceStore, Piece
from services.distiller.teacher import Asked, Contribution, Material, teacher_of
from services.runtime.client import FleetClient
from services.runtime.disk import waiting_for_room
from services.runtime.handful import Handfuls
from services.runtime.service import Context, Service
from services.runtime.store import open_store

__all__ = ["Distiller"]

HANDFUL = 128
"""Events taken together: their texts share requests, batches of one domain share a dataset."""

ENCODE_DEADLINE_MS = 60_000
"""Long enough for a busy machine: what is given up is asked again from the start."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Order:
    """Batches of one domain that arrived together."""

    domain: str
    batches: tuple[Event[LearningBatchQueued], ...]

    @property
    def queries(self) -> list[str]:
        return [clash.prompt for batch in self.batches for clash in batch.data.events]


class Distiller(Service):
    """Says `training.requested` and `learning.batch_rejected`."""

    name: ClassVar[str] = "distiller"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.counters = {"feedback": 0, "queries": 0, "datasets": 0, "rejected": 0}
        self._client = FleetClient(self.bus, deadline_ms=ENCODE_DEADLINE_MS)
        self._teacher = teacher_of(self.settings, self.state.of(self.name))

    async def setup(self) -> None:
        """Open the store, know the model, take feedback and batches."""
        model = await asyncio.to_thread(find_model, self.settings.fleet.model)
        self._model = BaseModelRef(id=model.base_model.id, sha256=model.base_model.sha256)
        self._file = open_store(
            self.state.of(self.name) / "experience.sqlite", SCHEMA + datasets.SCHEMA
        )
        self._store = ExperienceStore(self._file, self.settings.distiller.near_duplicate)
        self._store.serves(self._model.sha256)
        self._datasets = DatasetFolder(self._file, self.state.datasets)
        self.counters |= self._store.counts()
        kinds = (FeedbackJudged, LearningBatchQueued)
        self._datasets.tidy()
        handler = waiting_for_room(self._handle, self.log)
        await Handfuls(self, kinds, handler, most=HANDFUL, bytes_of=_bytes).start()

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await super().aclose()
        if hasattr(self, "_file"):
            self._file.close()

    async def _handle(self, deliveries: Sequence[Delivery]) -> None:
        """Keep what came, build what is due, then acknowledge and publish in one transaction.

        A batch brings its own pieces along: their `feedback.judged` may still be on its way.
        """
        events = [delivery.event for delivery in deliveries]
        batches = [event for event in events if isinstance(event.data, LearningBatchQueued)]
        pieces = [Piece.judged(e.data) for e in events if isinstance(e.data, FeedbackJudged)]
        pieces += [Piece.clashed(clash) for batch in batches for clash in batch.data.events]
        await self._vectors((piece.query for piece in pieces), "query")
        await self._vectors((text for piece in pieces for text in piece.passages), "document")
        self._store.learn(pieces)
        self.counters |= self._store.counts()
        by_domain: dict[str, list[Event[LearningBatchQueued]]] = {}
        for batch in batches:
            by_domain.setdefault(batch.data.domain, []).append(batch)
        answers: list[Event[Any]] = []
        for domain, together in by_domain.items():
            answers += await self._distill(domain, together)
        await self.bus.ack(deliveries, publish=answers)
        self.counters["datasets"] += sum(isinstance(a.data, TrainingRequested) for a in answers)
        self.counters["rejected"] += sum(isinstance(a.data, LearningBatchRejected) for a in answers)

    async def _vectors(self, texts: Iterable[str], role: Role) -> dict[str, Vector]:
        """Base vectors of texts, asked of the fleet where they are not kept yet."""
        wanted = list(dict.fromkeys(texts))
        known = self._store.vectors(wanted, role)
        missing = [text for text in wanted if text not in known]
        if missing:
            answer = await self._client.encode(missing, role=role, route="base")
            fresh = dict(zip(missing, answer.vectors, strict=True))
            self._store.keep_vectors(fresh, role)
            known |= fresh
        return known

    async def _distill(
        self, domain: str, batches: Sequence[Event[LearningBatchQueued]]
    ) -> list[Event[Any]]:
        """What follows from the batches of one domain: one dataset, or why there is none."""
        learnable = [b for b in batches if any(clash.positives for clash in b.data.events)]
        why = "no clash of the batch names a relevant passage: nothing can be learned from it"
        answers = [self._refuse(batch, why) for batch in batches if batch not in learnable]
        if not learnable:
            return answers
        order = _Order(domain, tuple(learnable))
        replay = self.settings.distiller.replay_groups
        experience = self._store.recall(domain, order.queries, replay)
        if not any(query.relevant for query in experience.queries):
            return answers + [self._refuse(batch, why) for batch in learnable]
        if len(experience.passages) < 2:
            why = "the domain knows a single passage: there is nothing to rank"
            return answers + [self._refuse(batch, why) for batch in learnable]
        contribution = await self._teacher.teach(
            Material(
                domain,
                tuple(Asked(text) for text in order.queries),
                tuple(experience.passages.values()),
            )
        )
        data = await self._dataset(order, experience, contribution)
        digest = await asyncio.to_thread(data.write, self.state.datasets)
        self._datasets.keep(domain, digest, time.time())
        self.log.info("dataset made", domain=domain, rows=data.rows, batches=len(learnable))
        return [*answers, self._request(order, data, digest, contribution)]

    async def _dataset(
        self, order: _Order, experience: Experience, contribution: Contribution
    ) -> TrainingSet:
        taught = [pair.query for pair in contribution.pairs]
        vectors = Vectors(
            await self._vectors([*(q.text for q in experience.queries), *taught], "query"),
            await self._vectors(experience.passages.values(), "document"),
        )
        return await asyncio.to_thread(
            build,
            experience,
            contribution,
            vectors,
            domain=order.domain,
            teacher=self._teacher.name,
            hard_negatives=self.settings.distiller.hard_negatives,
            metadata={"base_model.id": self._model.id, "base_model.sha256": self._model.sha256},
        )

    def _request(
        self, order: _Order, data: TrainingSet, digest: str, contribution: Contribution
    ) -> Event[TrainingRequested]:
        """Named after the newest batch, so that doing it again asks for the same."""
        cause = order.batches[-1]
        asked = set(order.queries)
        sources = {"batch": 0, "replay": 0}
        for row, source in zip(data.label_query.tolist(), data.label_source, strict=True):
            if source == FEEDBACK:
                source = "batch" if data.queries[row] in asked else "replay"
            sources[source] = sources.get(source, 0) + 1
        return cause.derive(
            TrainingRequested(
                task_id=derived_id(cause.source, cause.id, TrainingRequested.type),
                skill=order.domain,
                domain=order.domain,
                dataset=DatasetRef(digest=digest, rows=data.rows),
                base_model=self._model,
                batch_ids=tuple(batch.data.batch_id for batch in order.batches),
                sources=sources,
                teacher_reason=contribution.reason,
            ),
            source=self.source,
        )

    def _refuse(
        self, batch: Event[LearningBatchQueued], reason: str
    ) -> Event[LearningBatchRejected]:
        self.log.info("batch rejected", batch=batch.data.batch_id, why=reason)
        data = LearningBatchRejected(batch_id=batch.data.batch_id, reason=reason)
        return batch.derive(data, source=self.source)


def _bytes(delivery: Delivery) -> int:
    data = delivery.event.data
    if isinstance(data, FeedbackJudged):
        return sum(map(len, data.relevant)) + sum(map(len, data.irrelevant))
    return sum(len(t) for clash in data.events for t in (*clash.positives, *clash.negatives))
