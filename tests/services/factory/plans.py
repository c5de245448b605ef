"""What the factory's service tests share: a planned child, tasks, feedback, settings."""

import json
import sys
from pathlib import Path
from typing import Any

from lora.model import DEFAULT_ID, DEFAULT_SHA256
from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    FeedbackJudged,
    TrainingRequested,
)
from services.factory.service import SkillFactory
from services.runtime.service import Context
from services.runtime.settings import FactorySettings, Settings

NAME = "factory"
CHILD = "tests.services.factory.fake_child"


class Plan:
    """What the fake child is told, and what it was asked."""

    def __init__(self, folder: Path, *, head: bool = True, body: bool = False) -> None:
        self.file = folder / "plan.json"
        self.gate = folder / "go"
        self.phases: dict[str, dict[str, Any]] = {
            "head": {"accepted": head},
            "body": {"accepted": body},
        }
        self.save()

    def save(self) -> None:
        self.file.write_text(json.dumps(self.phases))

    def holds(self, phase: str) -> None:
        """Children of this phase stay until `gate` is there."""
        self.phases[phase]["wait"] = str(self.gate)
        self.save()

    @property
    def log(self) -> list[dict[str, Any]]:
        log = self.file.with_suffix(".log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def factory(self, context: Context) -> SkillFactory:
        return SkillFactory(context, child=(sys.executable, "-m", CHILD, str(self.file)))


def settings(**changes: Any) -> Settings:
    return Settings(factory=FactorySettings(**{"quiet_period": 0.0, "threads": 1} | changes))


def task(
    name: str, *, skill: str = "birds", rows: int = 100, digest: str = "sha256:" + "d" * 64
) -> Event[TrainingRequested]:
    data = TrainingRequested(
        task_id=name,
        skill=skill,
        domain=skill,
        dataset=DatasetRef(digest=digest, rows=rows),
        base_model=BaseModelRef(id=DEFAULT_ID, sha256=DEFAULT_SHA256),
        batch_ids=(name,),
    )
    return Event(data=data, source="/distiller/1", id=f"event-{name}")


def feedback(number: int, domain: str = "birds") -> Event[FeedbackJudged]:
    data = FeedbackJudged(
        feedback_id=f"{domain}{number}",
        query=f"{domain} query number {number}",
        relevant=(f"right answer {number}",),
        irrelevant=(f"query number {number + 1}",),
        domain=domain,
        served=(),
        rouge_score=0.0,
        entropy_delta=0.0,
    )
    return Event(data=data, source="/dissonance_monitor/1", id=f"{domain}{number}")
