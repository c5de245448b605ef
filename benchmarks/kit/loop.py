"""The learning loop of one domain, watched from outside: what was said, and when it is done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from bus import Bus
from schemas import (
    Event,
    FeedbackJudged,
    FleetHeartbeat,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetired,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["Depth", "Loop", "Refusal", "Task", "Version", "depth_of"]

Depth = Literal["head", "body"]
HEAD = "embedding"  # the target name of a head, by the card format
SMALLEST_BATCH = 4  # fewer clashes than this never make a batch
DURABLE = (
    FeedbackJudged,
    LearningEvent,
    LearningBatchQueued,
    LearningBatchRejected,
    TrainingRequested,
    TrainingRejected,
    SkillPublished,
    SkillInstalled,
    SkillRejected,
    SkillRetired,
)
LIVE = (TrainingProgressed, FleetHeartbeat)


def depth_of(card: SkillCard) -> Depth:
    """`body` for a card that reaches into the encoder, `head` for one that only bends vectors."""
    return "head" if set(card.target_modules) <= {HEAD} else "body"


@dataclass
class Task:
    """One training task and its verdicts; times are `time.monotonic` seconds, here as below."""

    task_id: str
    requested: float
    batches: tuple[str, ...] = ()
    sources: dict[str, int] = field(default_factory=dict)
    """Labels of its dataset, by where they came from."""
    teacher: str | None = None
    """Why the teacher gave less than it was asked for."""
    superseded: bool = False
    verdicts: dict[Depth, float] = field(default_factory=dict)
    """When each depth was decided: the card answers, or is refused."""


@dataclass(frozen=True)
class Version:
    """A version in service."""

    card: SkillCard
    depth: Depth
    task_id: str | None
    installed: float

    @property
    def name(self) -> str:
        """The name that pins it: `banking@2`."""
        return f"{self.card.name}@{self.card.version}"


@dataclass(frozen=True)
class Refusal:
    """A card that did not pass the gate, or was not installed."""

    depth: Depth
    reason: str
    metrics: dict[str, float | int | None]
    at: float
    task_id: str | None = None


@dataclass
class Loop:
    """Everything seen of `domain` since `watching` was entered.

    `wanted` bounds the feedback that counts; `heard` is called after each event was taken in.
    """

    bus: Bus
    domain: str
    body: bool = True
    """False where the fleet trains no bodies."""
    heard: Callable[[Event[Any]], None] | None = None
    judged: int = 0
    clashes: int = 0
    batched: int = 0
    """Clashes that lie in a batch."""
    last_clash: float = 0.0
    batches: dict[str, bool] = field(default_factory=dict)
    """Batch ids; True once a task or a rejection answers for them."""
    clashed: dict[str, float] = field(default_factory=dict)
    """When the last clash of each batch was found."""
    tasks: dict[str, Task] = field(default_factory=dict)
    published: list[SkillPublished] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    factory_queue: int = 0
    _depths: dict[str, Depth] = field(default_factory=dict)
    _found: dict[str, float] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: list[asyncio.Task[None]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def watching(self) -> Any:
        """Listen from now on: `async with loop.watching(): …`."""
        async with self.bus.watch(DURABLE) as durable, self.bus.watch(LIVE) as live:
            tasks = [asyncio.create_task(self._follow(events)) for events in (durable, live)]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, events: Any) -> None:
        async for event in events:
            if self.take(event):
                self._changed.set()
                if self.heard is not None:
                    self.heard(event)

    def take(self, event: Event[Any], at: float | None = None) -> bool:
        """Enter one event into the books; False where it is of another domain."""
        at = time.monotonic() if at is None else at
        match event.data:
            case FeedbackJudged(domain=self.domain):
                self.judged += 1
            case LearningEvent(domain=self.domain):
                self.clashes += 1
                self.last_clash = at
                self._found[event.data.feedback_id or ""] = at
            case LearningBatchQueued(domain=self.domain, batch_id=batch, events=clashes):
                self.batched += len(clashes)
                self.batches.setdefault(batch, False)
                times = (self._found.get(clash.feedback_id or "", at) for clash in clashes)
                self.clashed[batch] = max(times, default=at)
            case LearningBatchRejected(batch_id=batch) if batch in self.batches:
                self.batches[batch] = True
            case TrainingRequested(domain=self.domain, task_id=task, batch_ids=batches):
                made = Task(task, at, batches, event.data.sources, event.data.teacher_reason)
                self.tasks.setdefault(task, made)
                self.batches.update(dict.fromkeys(batches, True))
            case TrainingRejected(task_id=task) if task in self.tasks:
                self._refused(self.tasks[task], event.data, at)
            case SkillPublished(card=card) if card.name == self.domain:
                self._published(event.data)
            case SkillInstalled(card=card) if card.name == self.domain:
                self._installed(card, at)
            case SkillRejected(name=self.domain, digest=digest, reason=reason):
                self._not_installed(digest, reason, at)
            case TrainingProgressed(task_id=task):
                return task in self.tasks
            case FleetHeartbeat(service="factory", queue=queue):
                self.factory_queue = queue
            case _:
                return False
        return True

    def _refused(self, task: Task, data: TrainingRejected, at: float) -> None:
        if data.reason.startswith("superseded"):
            task.superseded = True
            return
        depth: Depth = "body" if data.reason.startswith("body:") else "head"
        task.verdicts[depth] = at
        self.refusals.append(Refusal(depth, data.reason, dict(data.metrics), at, task.task_id))

    def _published(self, data: SkillPublished) -> None:
        """A task's head is decided before its body, whatever their cards are made of.

        A head upon a body reaches into the encoder too, and of a body the head alone may remain.
        """
        task = self.tasks.get(data.task_id or "")
        if task is not None:
            earlier = any(it.task_id == task.task_id for it in self.published)
            decided = earlier or "head" in task.verdicts
            self._depths[data.card.digest] = "body" if decided else "head"
        self.published.append(data)

    def depth(self, card: SkillCard) -> Depth:
        """The phase of its task that made a card; what it is made of, where that is not known."""
        return self._depths.get(card.digest) or depth_of(card)

    def _installed(self, card: SkillCard, at: float) -> None:
        if any(it.card.digest == card.digest for it in self.versions):
            return
        task = next((it.task_id for it in self.published if it.card.digest == card.digest), None)
        depth = self.depth(card)
        self.versions.append(Version(card, depth, task, at))
        if task in self.tasks:
            self.tasks[task].verdicts[depth] = at

    def _not_installed(self, digest: str, reason: str, at: float) -> None:
        for told in self.published:
            if told.card.digest == digest:
                depth = self.depth(told.card)
                self.refusals.append(Refusal(depth, reason, {}, at, told.task_id))
                if told.task_id in self.tasks:
                    self.tasks[told.task_id].verdicts[depth] = at

    def last_task(self) -> Task | None:
        """The task that covers the last batch: the newest, for older ones end in it."""
        alive = [task for task in self.tasks.values() if not task.superseded]
        return max(alive, key=lambda task: task.requested, default=None)

    def last_clash_of(self, version: Version) -> float:
        """When the last clash of the batches that made a version was found."""
        task = self.tasks.get(version.task_id or "")
        times = [self.clashed[it] for it in task.batches if it in self.clashed] if task else []
        return max(times, default=self.last_clash)

    def gathered(self, pieces: int) -> bool:
        """True once all feedback is judged and no clash waits for a batch or a task."""
        waiting = self.clashes - self.batched
        return self.judged >= pieces and waiting < SMALLEST_BATCH and all(self.batches.values())

    def decided(self, pieces: int, depth: Depth) -> bool:
        """True once the task of the last batch has its verdict on `depth`."""
        if not self.gathered(pieces):
            return False
        last = self.last_task()
        return last is None or depth in last.verdicts

    async def until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Wait until `condition` holds or `limit` seconds have passed; whether it holds."""
        end = time.monotonic() + limit
        while not condition():
            self._changed.clear()
            left = end - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self._changed.wait()
        return True
