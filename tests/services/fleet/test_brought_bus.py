"""A fleet on a bus that is there already: no broker is started, and its promises are looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.errors import PreflightError
from services.fleet.bus_beats import doubts, prepare
from services.fleet.plan import plan
from services.runtime.settings import Settings
from tests.bus.kit import free_port
from tests.bus.nats_server import NatsServer, nats_binary
from tests.services.fleet.harness import DummyFleet, part, running


def test_there_is_no_broker_on_a_bus_of_nats(tmp_path: Path) -> None:
    def services(bus: str) -> list[str]:
        parts = plan(Settings(), state=tmp_path, bus=bus, config=tmp_path / "c.toml")
        return [each.service for each in parts]

    ours, theirs = services(f"ipc://{tmp_path}/bus"), services("nats://host:4222")
    assert ours == ["broker", *theirs]


async def test_all_parts_start_at_once_on_a_bus_of_somebody_else() -> None:
    fleet = DummyFleet([part("one", "never"), part("two")], own_bus=False)
    with running(fleet) as task:
        async with asyncio.timeout(20):
            while not any("two-1 is ready" in said for said in fleet.said):
                await asyncio.sleep(0.01)
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)
    assert not fleet.ready.is_set(), "one of them never was"


def test_one_replica_is_told_at_the_start(tmp_path: Path) -> None:
    nats_binary()
    server = NatsServer(tmp_path)
    server.start()
    try:
        assert prepare(server.url, tmp_path) == {}
        assert "has one replica" in (doubts(server.url) or "")
    finally:
        server.stop()
    assert doubts(f"ipc://{tmp_path}/bus") is None


def test_a_bus_that_cannot_be_used_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSONANCE_NATS_CA", "/nowhere")
    with pytest.raises(PreflightError, match="which is no file"):
        doubts(f"nats://127.0.0.1:{free_port()}")
