"""Tells what happens on the bus while the fleet learns."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.kit.loop import Loop
from demo.results import Mark, Results
from demo.screen import Screen
from schemas import (
    Event,
    FeedbackJudged,
    LearningBatchQueued,
    LearningBatchRejected,
    LearningEvent,
    SkillCard,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)

__all__ = ["Narrator"]


class Narrator:
    """Hears every event of the loop after it was entered there."""

    def __init__(self, screen: Screen, loop: Loop, results: Results, pieces: int) -> None:
        self.screen = screen
        self.loop = loop
        self.results = results
        self.pieces = pieces
        self._start = time.monotonic()
        self._phases: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """The first piece of feedback goes out now."""
        self._start = time.monotonic()

    def hear(self, event: Event[Any]) -> None:
        """One event: a bar, a line, a mark in the report, or nothing."""
        match event.data:
            case FeedbackJudged():
                self._mark("judged")
                self._bars()
            case LearningEvent():
                self._clash(event.data)
            case LearningBatchQueued(events=events):
                count = len(self.loop.batches)
                self._mark("batch", f"{len(events)} clashes")
                if count == 1 or not self.screen.live or count % 8 == 0:
                    self.screen.say(f"batch {count} is queued: {len(events)} clashes")
                self._bars()
            case LearningBatchRejected(reason=reason):
                self.screen.say(f"a batch holds nothing learnable: {reason}", "yellow")
            case TrainingRequested(dataset=dataset):
                self._mark("task")
                self.screen.say(f"training asked for: a dataset of {dataset.rows:,} rows")
            case TrainingProgressed():
                self._training(event.data)
            case TrainingRejected(reason=reason):
                if not reason.startswith("superseded"):
                    self._mark("refused", reason)
                    self.screen.say(f"gate: refused, {reason}", "yellow")
            case SkillPublished(card=card):
                self._published(card)
            case SkillInstalled(card=card):
                self._mark(self.loop.depth(card), f"{card.name}@{card.version}")
                self.screen.say(f"{card.name}@{card.version} is in service on every encoder")
            case SkillRejected(reason=reason):
                self._mark("refused", reason)
                self.screen.say(f"the manager refused a card: {reason}", "red")

    def _mark(self, kind: str, text: str = "") -> None:
        self.results.marks.append(Mark(time.monotonic() - self._start, kind, text))

    def _bars(self) -> None:
        self.screen.bar("feedback judged", self.loop.judged, self.pieces)
        self.screen.bar("clashes found", self.loop.clashes, self.pieces)
        self.screen.bar("clashes in batches", self.loop.batched, max(1, self.loop.clashes))

    def _clash(self, clash: LearningEvent) -> None:
        self._mark("clash")
        if self.loop.clashes == 1:
            self.screen.say(f"the first clash ({clash.reason}): {_short(clash.prompt)!r}")
            self.screen.say(f"    should find  {_short(clash.positives[0])}")
            if clash.negatives:
                self.screen.say(f"    but found    {_short(clash.negatives[0])}")
        self._bars()

    def _training(self, data: TrainingProgressed) -> None:
        self.screen.bar(
            f"training {data.phase}",
            data.step,
            data.steps,
            f"training: {data.phase}, loss {data.loss:.3f}",
        )
        if (data.task_id, data.phase) not in self._phases:
            self._phases.add((data.task_id, data.phase))
            if not self.screen.live:
                self.screen.say(f"training: {data.phase}")

    def _published(self, card: SkillCard) -> None:
        found = card.metrics

        def figure(key: str, form: str) -> str:
            value = found.get(key)
            return "?" if value is None else format(value, form)

        self.screen.say(
            f"gate: passed. {card.name}@{card.version} ({self.loop.depth(card)}, "
            f"{card.bytes / 1e6:.1f} MB) has MRR@10 {figure('before', '.3f')} → "
            f"{figure('after', '.3f')} on {figure('groups', '.0f')} query groups it was not "
            f"trained on; gain {figure('gain', '+.3f')}, at least {figure('low', '+.3f')}; "
            f"attempt {figure('attempts', '.0f')}",
            "green",
        )
        if card.threshold is None:
            self.screen.say("for named use only: routing to it would be too uncertain")
        else:
            self.screen.say(
                f"routing: keeps {figure('routed', '.0%')} of its own queries and takes "
                f"{figure('false_routed', '.1%')} of other people's"
            )


def _short(text: str, length: int = 84) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
