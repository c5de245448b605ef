"""What a process does with work that cannot be done."""

from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest

from bus import Delivery, DiskFull, connect
from bus.client.consumer import Leased
from schemas import Event, FeedbackGiven
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder
from tests.services.encoder.processes import until


class Worker(Service):
    """Cannot do anything."""

    name: ClassVar[str] = "worker"
    tried = 0

    async def do(self, delivery: Delivery) -> None:
        self.tried += 1
        raise DiskFull("no space left on the device")


async def test_a_journal_that_takes_nothing_back_ends_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise DiskFull("no space left on the device")

    monkeypatch.setattr(Leased, "nack", refuse)
    async with await connect(f"memory://{uuid4().hex}", source="/worker/1") as bus:
        worker = Worker(Context(Settings(), bus, StateFolder(tmp_path)))
        await worker.work("worker", FeedbackGiven, worker.do, visibility=0.2)
        await bus.publish(Event(data=FeedbackGiven(query="q", relevant=("p",)), source="/test/1"))

        await until(lambda: worker.tried > 1, "it is delivered again once its lease has run out")

        assert not worker.failure.done()
        await worker.aclose()
