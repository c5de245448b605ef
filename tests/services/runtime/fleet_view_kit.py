"""Events as a fleet says them, for the tests of what is shown of it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    FleetHeartbeat,
    ListedCard,
    Payload,
    SkillCard,
    SkillPublished,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)

MODEL = BaseModelRef(id="model", sha256="0" * 64)
NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
METRICS = {
    "before": 0.4,
    "after": 0.5,
    "gain": 0.1,
    "low": 0.05,
    "high": 0.15,
    "groups": 40,
    "chance": None,
}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def said(data: Payload, source: str = "/test/1", **more: Any) -> Event[Any]:
    return Event(data=data, source=source, **more)


def beat(service: str, instance: str = "1", **fields: Any) -> FleetHeartbeat:
    given = {"pid": 10, "state": "ready", "queue": 0, "rss_bytes": 5, "counters": {}} | fields
    return FleetHeartbeat(service=service, instance=instance, **given)


def digest(name: object) -> str:
    return f"sha256:{hashlib.sha256(str(name).encode()).hexdigest()}"


def card(name: str, version: int = 1, **fields: Any) -> SkillCard:
    given: dict[str, Any] = {
        "name": name,
        "version": version,
        "digest": digest((name, version, fields.get("signer"))),
        "bytes": 900,
        "rank": 4,
        "alpha": 8.0,
        "target_modules": ("embedding",),
        "base_model": MODEL,
        "applies_to": ("query",),
        "description": f"about {name}",
        "prototypes": "AAAA",
        "threshold": 0.5,
        "metrics": METRICS,
        "created": f"2026-01-0{min(version, 9)}T00:00:00Z",
        "parents": () if version == 1 else (digest((name, version - 1, None)),),
    }
    return SkillCard(**given | fields)


def listed(card: SkillCard, state: str = "installed", **fields: Any) -> ListedCard:
    values = {name: getattr(card, name) for name in SkillCard.__struct_fields__}
    return ListedCard(**values, state=state, **fields)


def requested(task: str, domain: str) -> TrainingRequested:
    return TrainingRequested(
        task_id=task,
        skill=domain,
        domain=domain,
        dataset=DatasetRef(digest=digest(task), rows=9),
        base_model=MODEL,
        batch_ids=(),
    )


def progressed(task: str, step: int = 1, phase: str = "head", loss: float = 0.5) -> Payload:
    return TrainingProgressed(task_id=task, step=step, steps=100, loss=loss, phase=phase)


def rejected(task: str, domain: str, reason: str = "head: no better") -> TrainingRejected:
    return TrainingRejected(
        task_id=task, skill=domain, reason=reason, metrics=METRICS, depth="head"
    )


def published(task: str | None, card: SkillCard) -> SkillPublished:
    return SkillPublished(card=card, origin="here", task_id=task, depth="head")
