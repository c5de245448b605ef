"""From a verdict to what is said of it: the card numbered, stored and described, or the refusal."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora.card import LoRACard, LoRAFormat
from lora.store import CardStore
from schemas import Event, SkillPublished, TrainingRejected
from services.factory.bench import Done
from services.factory.job import Result
from services.factory.tasks import ORDINALS, Owed, TaskStore
from services.factory.versions import VersionStore
from services.runtime.cards import describe
from services.runtime.settings import FactorySettings
from services.runtime.store import transaction

__all__ = ["Publisher"]


class Publisher:
    """Ends phases: with a version, a refusal, or in favour of a newer task."""

    def __init__(
        self,
        store: sqlite3.Connection,
        tasks: TaskStore,
        versions: VersionStore,
        settings: FactorySettings,
        cards: CardStore,
        source: str,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._versions = versions
        self._settings = settings
        self._cards = cards
        self._source = source

    async def conclude(self, owed: Owed, done: Done) -> None:
        """The verdict stands: publish the candidate, or refuse it.

        The card is in the store before the transaction that ends the phase and lays its event into
        the outbox; killed before it, the same result makes the same card again.
        """
        if not done.result.accepted:
            said = self._refusal(
                owed, f"{owed.phase}: {done.result.reason}", done.result.metrics, done.result
            )
            with transaction(self._store):
                self._tasks.end(owed, [said], judged=True)
            return
        number = self._versions.next_number(owed.task.skill)
        card = await asyncio.to_thread(self._stored, done, number)
        described = describe(card)
        await asyncio.to_thread(self._versions.keep_folds, described.digest, done.folder / "folds")
        published = owed.event.derive(
            SkillPublished(
                card=described,
                origin=socket.gethostname(),
                task_id=owed.task.task_id,
                **self._told(owed, done.result),
            ),
            source=self._source,
            ordinal=ORDINALS[owed.phase],
        )
        with transaction(self._store):
            self._versions.learn(
                described,
                time.time(),
                ours=True,
                next_look=self._settings.shadow_min,
                cause=published,
            )
            self._tasks.end(owed, [published], judged=True, published=True)
        self._versions.prune_folds(owed.task.skill, self._settings.keep_versions)

    def _stored(self, done: Done, number: int) -> LoRACard:
        """The candidate in the card store, numbered now."""
        card = LoRAFormat.read(done.folder / "candidate.lora.arrow")
        if card.version != number:
            card = replace(card, version=number)
        return self._cards.put(card)

    def outdated(self, owed: Owed) -> None:
        """Another version came into service meanwhile: judge again, unless a newer task will."""
        if self._tasks.has_newer(owed):
            self._tasks.supersede(owed, judged=True)
        else:
            self._tasks.postpone(owed, time.time(), judged=True)

    def give_up(self, owed: Owed, reason: str) -> None:
        """The phase failed too often; its data stay, and the next batch adds to them."""
        said = self._refusal(owed, f"{owed.phase}: {reason}", {})
        with transaction(self._store):
            self._tasks.end(owed, [said], judged=False)

    def _refusal(
        self, owed: Owed, reason: str, metrics: Mapping[str, Any], result: Result | None = None
    ) -> Event[TrainingRejected]:
        data = TrainingRejected(
            task_id=owed.task.task_id,
            skill=owed.task.skill,
            reason=reason,
            metrics={key: value for key, value in metrics.items() if _is_metric(value)},
            **self._told(owed, result),
        )
        return owed.event.derive(data, source=self._source, ordinal=ORDINALS[owed.phase])

    def _told(self, owed: Owed, result: Result | None) -> dict[str, Any]:
        """How it was trained; without a result no candidate was judged."""
        judged = self._tasks.attempts(owed.task.skill)
        return {
            "depth": owed.phase,
            "schedule": self._settings.body_schedule if owed.phase == "body" else "at_once",
            "attempts": judged + (result is not None),
            "seconds": None if result is None else result.seconds,
        }


def _is_metric(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
