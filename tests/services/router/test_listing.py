"""A router that has just started, while the manager that knows the skills does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import EncodeFailed, Event, SkillListed
from services.router.service import RouterService
from tests.services.encoder.processes import Processes
from tests.services.router.fleet import ask


async def test_a_name_is_unknown_only_once_it_is_known_which_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.router.news.LIST_PATIENCE", 0.0)
    monkeypatch.setattr("services.router.service.SETUP_PATIENCE", 0.0)
    processes = Processes(tmp_path)
    try:
        router = await processes.start(RouterService)
        client, manager = await processes.bus("/client/1"), await processes.bus("/manager/1")
        failed = await processes.ear(EncodeFailed, to=client.address)
        await ask(client, "a", id="named", route="named", skills=("nobody",))
        for number in (1, 2):  # what is refused for another reason is told at once
            await ask(client, "b" * 100_000, id=f"long {number}", route="base")
            await failed.first(EncodeFailed, number)
        listed = Event(data=SkillListed(cards=()), source=manager.source, to=router.address)
        await manager.publish(listed)
        await failed.first(EncodeFailed, 3)
    finally:
        await processes.aclose()

    told = [(it.data.request_id, it.data.code) for it in failed.of(EncodeFailed)]
    assert told == [("long 1", "too_large"), ("long 2", "too_large"), ("named", "unknown_skill")]
