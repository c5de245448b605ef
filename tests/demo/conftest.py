"""A fleet that answers as a real one would, in this process and without a model."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bus import Bus, connect
from demo.domain import Pair
from schemas import (
    AppliedSkill,
    BaseModelRef,
    CompletedRow,
    DatasetRef,
    EncodeFailed,
    EncodeRequested,
    Event,
    FeedbackGiven,
    FeedbackJudged,
    LearningBatchQueued,
    LearningEvent,
    Payload,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
    now,
)
from tests.services.encoded import encoded

DIM = 32
MODEL = BaseModelRef(id="stub", sha256="0" * 64)


def direction(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A fixed vector for a text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


@dataclass
class StubFleet:
    """Knows the right answer of every query, and gives more of it away with every version."""

    pairs: tuple[Pair, ...]
    pieces: int
    """It learns once it has so much feedback."""
    publishes: bool = True
    crashes: bool = False
    url: str = "memory://demo"
    seconds: float = 0.1
    versions: list[SkillCard] = field(default_factory=list)
    given: list[FeedbackGiven] = field(default_factory=list)
    stopped: bool = False

    def check(self) -> None:
        if self.crashes and len(self.given) >= self.pieces:
            raise RuntimeError("the fleet ended by itself")

    @property
    def bus(self) -> str:
        return self.url

    @asynccontextmanager
    async def running(self, state: Path, **_: object) -> AsyncIterator["StubFleet"]:
        self.settings = (state / "settings.toml").read_text("utf-8")
        async with (
            await connect(self.url, source="/stub/1") as bus,
            bus.watch(EncodeRequested) as asked,
            bus.watch(FeedbackGiven) as given,
        ):
            tasks = [
                asyncio.create_task(self._serve(bus, asked)),
                asyncio.create_task(self._learn(bus, given)),
            ]
            try:
                yield self
            finally:
                self.stopped = True
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    async def _serve(self, bus: Bus, asked: Any) -> None:
        right = {pair.query: pair.passage for pair in self.pairs}
        async for event in asked:
            data: EncodeRequested = event.data
            known = {f"{card.name}@{card.version}": card for card in self.versions}
            wanted = [known.get(name) for name in data.skills]
            card = wanted[0] if wanted else None
            if data.route == "auto" and self.versions:
                card = self.versions[-1]
            answer: Payload
            if None in wanted:
                answer = EncodeFailed(request_id=event.id, code="unknown_skill", message="none")
                attachments: tuple[bytes, ...] = ()
            else:
                share = 0.3 if card is None else 0.3 + 0.5 * card.version
                rows = [
                    direction(text) + share * direction(right.get(text, text))
                    if data.role == "query"
                    else direction(text)
                    for text in data.texts
                ]
                answer, stream = encoded(event.id, rows, [_row(card)] * len(rows), "stub")
                attachments = (stream,)
            await bus.publish(
                Event(
                    data=answer,
                    source=bus.source,
                    to=data.reply_to,
                    correlation_id=event.id,
                    attachments=attachments,
                )
            )

    async def _learn(self, bus: Bus, given: Any) -> None:
        async def say(*told: Payload) -> None:
            await bus.publish(*(Event(data=data, source=bus.source) for data in told))

        async for event in given:
            self.given.append(event.data)
            await say(*_judged(event))
            if len(self.given) == self.pieces:
                break
        domain = self.given[0].domain or ""
        clashes = tuple(_clash(event) for event in self.given)
        await say(LearningBatchQueued(batch_id="b1", domain=domain, events=clashes))
        dataset = DatasetRef(digest="sha256:" + "2" * 64, rows=7)
        await say(
            TrainingRequested(
                task_id="t1",
                skill=domain,
                domain=domain,
                dataset=dataset,
                base_model=MODEL,
                batch_ids=("b1",),
            )
        )
        for version, depth in enumerate(("head", "body"), start=1):
            await say(TrainingProgressed(task_id="t1", step=1, steps=2, loss=0.5, phase=depth))
            if not self.publishes:
                reason = f"{depth}: does not beat what is served now"
                await say(TrainingRejected(task_id="t1", skill=domain, reason=reason, metrics={}))
                continue
            card = _card(domain, version, depth)
            await say(SkillPublished(card=card, origin="stub", task_id="t1"))
            self.versions.append(card)
            await say(SkillInstalled(card=card))


def _row(card: SkillCard | None) -> CompletedRow:
    if card is None:
        return CompletedRow(reason="no_skills")
    skill = AppliedSkill(name=card.name, version=card.version, digest=card.digest, score=1.0)
    return CompletedRow(skills=(skill,))


def _judged(event: Event[FeedbackGiven]) -> tuple[Payload, Payload]:
    data = event.data
    judged = FeedbackJudged(
        feedback_id=event.id,
        query=data.query,
        relevant=data.relevant,
        irrelevant=data.irrelevant,
        domain=data.domain or "",
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )
    return judged, _clash(data)


def _clash(data: FeedbackGiven) -> LearningEvent:
    return LearningEvent(
        prompt=data.query,
        rouge_score=0.0,
        entropy_delta=0.0,
        is_breakthrough=False,
        timestamp=now(),
        reason="contradiction",
        positives=data.relevant,
        negatives=data.irrelevant,
        domain=data.domain or "",
    )


def _card(name: str, version: int, depth: str) -> SkillCard:
    return SkillCard(
        name=name,
        version=version,
        digest=f"sha256:{version:064d}",
        bytes=1_000,
        rank=8,
        alpha=16.0,
        target_modules=("embedding",) if depth == "head" else ("query", "embedding"),
        base_model=MODEL,
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=0.5 if depth == "head" else None,
        metrics={"before": 0.4, "after": 0.5, "gain": 0.1, "low": 0.05, "groups": 40},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )


PAIRS = tuple(Pair(f"m.f{n}", f"Do the thing number {n}.", f"m.f{n}(a, b={n})") for n in range(400))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StubFleet]:
    """Put a stub in place of the fleet, and 400 made-up functions in place of the library."""
    from demo import story

    def make(**how: Any) -> StubFleet:
        fleet = StubFleet(PAIRS, **how)
        monkeypatch.setattr(story, "running_fleet", fleet.running)
        monkeypatch.setattr(story, "pairs", lambda: PAIRS)
        return fleet

    return make
