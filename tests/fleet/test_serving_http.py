"""A whole fleet over HTTP: the vectors of the bus, an end in order, no door that stands open, and
somebody who watches while its broker is killed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from schemas import EncodeRequested, FleetHeartbeat
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head, install

pytestmark = pytest.mark.timeout(120)

CONFIG = """
[api]
[fleet]
stop_grace = 30 # for a machine that does other things, too
"""
PIECES = 60
TEXTS = ["card still not here", "how do I top up?", "a passage about nothing in particular"]


@pytest.fixture(scope="module")
def fleet() -> Iterator[harness.Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    with harness.running(folder, "--workers", "1", config=CONFIG, learns=False) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


async def test_it_ends_in_order_and_comes_back_where_it_was(fleet: harness.Fleet) -> None:
    async with (
        fleet.bus() as bus,
        bus.watch(EncodeRequested) as requests,
        bus.watch(FleetHeartbeat) as beats,
        httpx.AsyncClient(base_url=str(fleet.api), timeout=60) as client,
    ):
        pids = await harness.processes(bus)
        api, encoder = pids["api", "1"], pids["encoder", "1"]
        os.kill(encoder, signal.SIGSTOP)
        try:
            request = client.post("/v1/embeddings", json={"model": "base", "input": TEXTS})
            answering = asyncio.create_task(request)
            while (await requests.get(timeout=20)).source != "/api/1":
                pass
            os.kill(api, signal.SIGTERM)
            while (beat := (await beats.get(timeout=20)).data).pid != api or beat.state == "ready":
                pass
        finally:
            os.kill(encoder, signal.SIGCONT)
        answer = await answering

        async def another() -> bool:
            return (await harness.processes(bus)).get(("api", "1"), api) != api

        await harness.until(another, seconds=30, what="the API is started again")
        again = await client.get("/v1/models")

    assert (beat.state, answer.status_code) == ("draining", 200)
    assert len(answer.json()["data"]) == len(TEXTS)
    assert again.status_code == 200


def test_a_fleet_that_others_would_reach_without_a_key_does_not_start() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    config = folder / "settings.toml"
    config.write_text('[api]\nhost = "0.0.0.0"\n[federation]\nenabled = false\n')
    command = [sys.executable, "run_all.py", "--state", str(folder / "state")]
    ended = subprocess.run(
        [*command, "--config", str(config), "--workers", "1"],
        cwd=harness.ROOT,
        env=harness.environment(covers=False),
        capture_output=True,
        text=True,
        timeout=50,
    )
    shutil.rmtree(folder, ignore_errors=True)

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "run_all.py: api-1 refused to start: the API is not bound to 0.0.0.0 without a key"
    )


async def test_the_vectors_are_those_of_the_bus(fleet: harness.Fleet) -> None:
    """Exactly: whoever changes from one to the other must not embed anything again."""
    async with (
        fleet.bus() as bus,
        openai.AsyncOpenAI(base_url=f"{fleet.api}/v1", api_key="any") as api,
    ):
        stored = await install(bus, fleet, head("banking", 1))
        client = FleetClient(bus)
        over_bus = {
            "base": await client.encode(TEXTS, route="base"),
            "auto": await client.encode(TEXTS, route="auto"),
            "banking": await client.encode(TEXTS, skills=["banking"]),
        }
        over_bus[stored.digest[7:19]] = over_bus["banking"]
        for model, expected in over_bus.items():
            answer = await api.embeddings.create(model=model, input=TEXTS)

            assert (np.array([row.embedding for row in answer.data]) == expected.vectors).all()
            assert answer.usage.total_tokens == expected.tokens
            extra = answer.data[0].model_extra
            assert extra is not None
            names = [skill["name"] for skill in extra["consonance"]["skills"]]
            assert names == [skill.name for skill in expected.rows[0].skills]

        expected = over_bus["banking"]
        plain = await api.embeddings.create(model="banking", input=TEXTS, encoding_format="float")
        coded = await api.embeddings.create(model="banking", input=TEXTS, encoding_format="base64")
        assert (np.array([row.embedding for row in plain.data]) == expected.vectors).all()
        raw = b"".join(base64.b64decode(str(row.embedding)) for row in coded.data)
        assert raw == np.ascontiguousarray(expected.vectors, "<f4").tobytes()

        with pytest.raises(openai.NotFoundError, match="did you mean 'banking'"):
            await api.embeddings.create(model="bankin", input=TEXTS)
        assert "banking" in [model.id async for model in api.models.list()]


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

        async def at_the_end() -> bool:  # the journal says by its beats where it is
            heads = (await status(client))["journal"]["heads"]
            return bool(heads["feedback.given"] == heard[-1])

        await harness.until(at_the_end, seconds=20, what="the status is as far as the stream")
        figures = (await client.get("/metrics")).text
        assert 'consonance_up{instance="1",service="router"} 1.0' in figures
