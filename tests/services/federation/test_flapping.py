"""A peer that comes and goes leaves nothing behind: no thread, socket, task or file."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import psutil
import pytest

from schemas import PeerJoined, PeerLeft, SkillFetched
from services.federation import peers, trust
from services.federation import service as module
from services.federation.catalogue import Catalogue
from services.federation.server import LoRAFlightServer
from services.federation.service import FederationService
from tests.services.encoder.processes import Processes, settings, until
from tests.services.federation.nodes import AUTHOR, noise
from tests.services.federation.test_service import card_of

TIMES = 60


def held() -> dict[str, int]:
    """What this process holds that could leak."""
    gc.collect()
    process = psutil.Process()
    return {
        "files": process.num_fds(),
        "connections": len(process.net_connections()),
        "threads": process.num_threads(),
        "tasks": len(asyncio.all_tasks()),
    }


async def test_a_peer_that_comes_and_goes_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALM", 0.01)
    monkeypatch.setattr(module, "LISTED", 0.0)  # there is no manager
    monkeypatch.setattr(peers, "CALM", 0.01)
    monkeypatch.setattr(peers, "GONE", 1)
    monkeypatch.setattr(peers, "LONGEST", 0.02)
    dice = random.Random(1)
    data = noise(3000, 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    catalogue = Catalogue(AUTHOR.public)
    catalogue.put(card_of(1), path)
    processes = Processes(tmp_path)
    trust.add(processes.state.keys / "trusted", AUTHOR.public)
    ear = await processes.ear(PeerJoined, PeerLeft, SkillFetched)

    def appear(port: int = 0) -> LoRAFlightServer:
        server = LoRAFlightServer(catalogue, node="flap", key=AUTHOR.public, port=port)
        server.start()
        return server

    server = appear()
    port = server.port
    options = {
        "node": "here",
        "discovery": False,
        "peers": (f"127.0.0.1:{port}",),
        "sync_interval": 0.02,
        "repeat": 0.1,
        "prefetch": "all",
    }
    service = await processes.start(FederationService, settings=settings(federation=options))
    await ear.first(PeerJoined)
    before: dict[str, int] = {}
    for number in range(TIMES):
        await asyncio.sleep(dice.uniform(0.01, 0.04))
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(dice.uniform(0.01, 0.04))
        if number == 5:
            before = held()
        server = await asyncio.to_thread(appear, port)
        # It is to be brought again, and be there or not.
        processes.store.path(card_of(1).digest).unlink(missing_ok=True)
        service._fetching.forgive()
    joined = len(ear.of(PeerJoined))
    assert joined > 5, "it was noticed often enough to be a test"
    assert joined - len(ear.of(PeerLeft)) in (0, 1)
    assert len(ear.of(SkillFetched)) > 1
    await until(lambda: service.counters["peers"] == 1, "in the end it is there")
    await asyncio.to_thread(server.stop)
    await until(lambda: service.counters["peers"] == 0, "and gone")

    def bounded() -> bool:
        return all(count <= before[what] + 8 for what, count in held().items())

    await until(bounded, f"{held()} is about {before}", 10.0)
    incoming = processes.state.of("federation") / "incoming"
    await until(lambda: not list(incoming.iterdir()), "nothing is under way")
    await processes.aclose()
