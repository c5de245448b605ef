"""The learning loop of each domain: clashes, trainings, verdicts of the gate."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from schemas import (
    BaseModelRef,
    DomainForgotten,
    Event,
    FeedbackJudged,
    FleetHeartbeat,
    LearningEvent,
    SkillPublished,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)
from services.runtime.fleet_view_status import (
    BATCH_SIZE,
    DomainStatus,
    LoopStatus,
    TrainingStatus,
    VerdictStatus,
)

__all__ = ["Loop", "figure"]

DOMAINS: Final = 256
"""Domains that are remembered, those with the newest activity."""

VERDICTS: Final = 10
"""Verdicts of a domain that are."""

TASKS: Final = 512
"""Tasks of which is remembered what they train."""

QUIET: Final = 120.0
"""Seconds without progress after which a training is taken for ended."""

LATE: Final = 5.0
"""Seconds after which the factory's word that it trains nothing ends a training."""

Depth = Literal["head", "body"]


@dataclass
class _Domain:
    open: int = 0
    clashes: int = 0
    judged: int = 0
    last: datetime | None = None
    training: TrainingStatus | None = None
    heard: float = 0.0
    """When its progress was; monotonic."""
    verdicts: deque[VerdictStatus] = field(default_factory=lambda: deque(maxlen=VERDICTS))
    active: float = 0.0
    """When anything happened; seconds since the epoch."""


class Loop:
    """Heartbeats of monitor and factory, and what is said from clash to verdict.

    `now` is monotonic, in seconds.
    """

    def __init__(self) -> None:
        self._domains: OrderedDict[str, _Domain] = OrderedDict()
        self._tasks: OrderedDict[str, str] = OrderedDict()
        self._batch_size = BATCH_SIZE
        self.model: BaseModelRef | None = None
        """What the last training was for."""

    def beat(self, data: FleetHeartbeat, now: float) -> None:
        """What the monitor has in its batches; whether the factory trains at all."""
        if data.service == "dissonance_monitor":
            self._monitor(data)
        elif data.service == "factory" and data.state != "starting":
            running = [it for it in ("head", "body") if data.counters.get(f"{it}_running")]
            for domain in self._domains.values():
                training = domain.training
                if training is None or now - domain.heard < LATE:
                    continue
                if (training.depth or "head") not in running or now - domain.heard > QUIET:
                    domain.training = None

    def hear(self, event: Event[Any], now: float) -> None:
        """One event of the loop."""
        match event.data:
            case TrainingRequested(task_id=task, domain=name):
                self.model = event.data.base_model
                self._tasks[task] = name
                while len(self._tasks) > TASKS:
                    self._tasks.popitem(last=False)
                self._touched(name, event.time)
            case TrainingProgressed():
                self._progress(event.data, event.time, now)
            case TrainingRejected(task_id=task, skill=name):
                domain = self._touched(name, event.time)
                self._ended(domain, task, event.data.depth)
                if not event.data.reason.startswith("superseded"):
                    domain.verdicts.appendleft(_refused(event.data, event.time))
            case SkillPublished(card=card, task_id=task) if task is not None:
                domain = self._touched(card.name, event.time)
                self._ended(domain, task, event.data.depth)
                domain.verdicts.appendleft(_published(event.data, event.time))
            case FeedbackJudged(domain=name):
                self._judged(name, event.time)
            case LearningEvent(domain=name):
                self._judged(name, event.time)
            case DomainForgotten(domain=name):
                self._domains.pop(name, None)

    def snapshot(self, now: float) -> LoopStatus:
        """Every domain, the one with the newest activity first."""
        told = []
        for name, it in sorted(self._domains.items(), key=lambda item: -item[1].active):
            fresh = now - it.heard <= QUIET
            told.append(
                DomainStatus(
                    domain=name,
                    open=it.open,
                    clashes=it.clashes,
                    feedback=it.judged,
                    last=it.last,
                    training=it.training if fresh else None,
                    verdicts=tuple(it.verdicts),
                )
            )
        return LoopStatus(batch_size=self._batch_size, domains=tuple(told))

    def _monitor(self, data: FleetHeartbeat) -> None:
        self._batch_size = int(data.counters.get("batch_size", self._batch_size))
        told: dict[str, dict[str, float]] = {}
        for key, value in data.counters.items():
            what, colon, name = key.partition(":")
            if colon:
                told.setdefault(name, {})[what] = value
        for name, figures in told.items():
            last = datetime.fromtimestamp(figures.get("last", 0.0), UTC)
            domain = self._touched(name, last)
            domain.open = int(figures.get("open", 0))
            domain.judged = int(figures.get("judged", 0))
            domain.clashes = int(figures.get("clashes", 0))
            if domain.last is None or last > domain.last:
                domain.last = last
        for name, domain in self._domains.items():
            if name not in told:  # its batch was queued long ago, or it was forgotten
                domain.open = 0

    def _judged(self, name: str, time: datetime) -> None:
        domain = self._touched(name, time)
        if domain.last is None or time > domain.last:
            domain.last = time

    def _progress(self, data: TrainingProgressed, time: datetime, now: float) -> None:
        name = self._tasks.get(data.task_id)
        if name is None or not math.isfinite(data.loss):
            return
        domain = self._touched(name, time)
        domain.heard = now
        domain.training = TrainingStatus(
            task_id=data.task_id,
            phase=data.phase,
            step=data.step,
            steps=data.steps,
            loss=data.loss,
            depth=_depth(data.phase),
        )

    def _ended(self, domain: _Domain, task: str, depth: Depth | None) -> None:
        training = domain.training
        if (
            training is not None
            and training.task_id == task
            and (depth is None or training.depth in (None, depth))
        ):
            domain.training = None

    def _touched(self, name: str, time: datetime) -> _Domain:
        domain = self._domains.setdefault(name, _Domain())
        domain.active = max(domain.active, time.timestamp())
        if len(self._domains) > DOMAINS:
            oldest = min(self._domains, key=lambda it: self._domains[it].active)
            if oldest != name:
                del self._domains[oldest]
        return domain


def figure(value: object) -> float | None:
    """A metric as a number, None where there is none; an infinite one says nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _depth(phase: str) -> Depth | None:
    return "head" if phase == "head" else "body" if phase == "body" else None


def _verdict(metrics: dict[str, Any], **more: Any) -> VerdictStatus:
    groups = figure(metrics.get("groups"))
    return VerdictStatus(
        before=figure(metrics.get("before")),
        after=figure(metrics.get("after")),
        gain=figure(metrics.get("gain")),
        low=figure(metrics.get("low")),
        high=figure(metrics.get("high")),
        groups=None if groups is None else int(groups),
        **more,
    )


def _published(data: SkillPublished, time: datetime) -> VerdictStatus:
    return _verdict(
        data.card.metrics,
        time=time,
        skill=data.card.name,
        published=True,
        version=data.card.version,
        depth=data.depth,
        reason="beats what was served before it",
    )


def _refused(data: TrainingRejected, time: datetime) -> VerdictStatus:
    return _verdict(
        data.metrics,
        time=time,
        skill=data.skill,
        published=False,
        version=None,
        depth=data.depth,
        reason=data.reason.removeprefix(f"{data.depth}: "),
    )
