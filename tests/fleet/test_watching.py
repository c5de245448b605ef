"""Somebody watches a whole fleet over HTTP while its broker is killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet import harness

pytestmark = pytest.mark.timeout(120)

PIECES = 60


@pytest.fixture
def fleet() -> Iterator[harness.Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    with harness.running(folder, "--workers", "1", config="[api]\n") as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


async def listen(client: httpx.AsyncClient, heard: list[int]) -> None:
    """The feedback that is told, as a browser would hear it."""
    query = {"types": "feedback.given", "after": "0"}
    async with client.stream("GET", "/v1/events", params=query, timeout=None) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                heard.append(json.loads(line[6:])["sequence"])


async def status(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/v1/status")).json()
    return found


async def pids(client: httpx.AsyncClient, service: str) -> list[int]:
    return [it["pid"] for it in (await status(client))["processes"] if it["service"] == service]


async def test_who_watches_misses_nothing_where_the_broker_is_killed(fleet: harness.Fleet) -> None:
    heard: list[int] = []
    async with httpx.AsyncClient(base_url=str(fleet.api), timeout=60) as client:
        listening = asyncio.create_task(listen(client, heard))

        async def seen() -> bool:
            return {it["service"] for it in (await status(client))["processes"]} == {
                *("adapter_manager", "api", "broker", "dissonance_monitor"),
                *("distiller", "encoder", "factory", "router"),
            }

        await harness.until(seen, seconds=30, what="every process is shown")
        (broker,) = await pids(client, "broker")
        for number in range(PIECES):
            if number == PIECES // 2:
                os.kill(broker, signal.SIGKILL)
            piece = {"query": f"where does bird {number} nest", "relevant": [f"lake {number}"]}
            answer = await client.post("/v1/feedback", json=piece)
            assert answer.status_code == 202, answer.text

        async def told() -> bool:
            return len(heard) >= PIECES and await pids(client, "broker") != [broker]

        await harness.until(told, seconds=30, what="all of it is told, and the new broker shown")
        assert heard == sorted(set(heard)), "in order, and everything once"
        assert len(heard) == PIECES
        assert not listening.done(), "the stream outlives the broker"
        listening.cancel()
        head = (await status(client))["journal"]["heads"]["feedback.given"]
        assert head == heard[-1]
        figures = (await client.get("/metrics")).text
        assert 'consonance_up{instance="1",service="router"} 1.0' in figures
