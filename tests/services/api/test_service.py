"""The process: where it listens, when it is ready, how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas import Event, FeedbackGiven
from services.api import presence
from services.api.keys import KeyStore
from services.errors import SettingsError
from services.runtime import api_address
from services.runtime.api_address import bound
from services.runtime.settings_api import ApiSettings
from tests.bus.kit import eventually
from tests.services.api.kit import Door, opened

ROOT = Path(__file__).resolve().parents[3]


async def test_it_is_ready_once_all_that_is_needed_is(tmp_path: Path) -> None:
    async with opened(tmp_path, ready=False) as door:
        for service in ("broker", "router", "encoder"):
            await door.player.beat(service, state="starting")
        before = await door.client.get("/readyz")
        health = await door.client.get("/healthz")
        for service in ("broker", "router", "encoder"):
            await door.player.beat(service)
        await until_ready(door)

    assert before.status_code == 503
    assert before.json() == {"ready": False, "missing": ["broker", "router", "encoder"]}
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def until_ready(door: Door) -> None:
    async with asyncio.timeout(5):
        while (await door.client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.005)


async def test_where_the_fleet_is_gone_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "PATIENCE", 0.0)
    async with opened(tmp_path) as door:
        await door.player.beat("encoder", state="stopped")
        async with asyncio.timeout(5):
            while (answer := await door.embed()).status_code == 200:
                await asyncio.sleep(0.005)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "fleet_unavailable"
    assert "nothing is heard of encoder" in answer.json()["error"]["message"]


def test_without_the_broker_nobody_else_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PATIENCE", 0.0)
    nobody = presence.Presence(lambda: ())
    assert nobody.gone() == ("broker",)
    assert nobody.unready() == ("broker", "router", "encoder")


async def test_a_process_that_restarts_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "PATIENCE", 0.0)
    async with opened(tmp_path) as door:
        await door.player.beat("encoder", state="starting")
        assert (await door.embed()).status_code == 200


async def test_what_is_asked_is_answered_before_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        slow = asyncio.create_task(door.embed("slow"))
        while not door.player.asked:
            await asyncio.sleep(0.005)
        stream = door.client.stream("GET", "/v1/events")
        async with stream as events:
            drained = asyncio.create_task(door.service.drain())
            async for _ in events.aiter_bytes():
                pass  # the stream ends by itself
        assert not drained.done()
        door.player.release.set()
        answer = await slow
        await asyncio.wait_for(drained, 5)
        with pytest.raises(httpx.ConnectError):
            await door.client.get("/healthz")

    assert answer.status_code == 200


@pytest.mark.parametrize("what", ["asked", "given"])
async def test_who_has_no_answer_when_the_grace_is_over_is_told_to_come_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as door:
        bus, at_work = door.service.bus, asyncio.Event()
        publish = bus.publish

        async def silent(*events: Event[Any]) -> Any:
            if not isinstance(events[0].data, FeedbackGiven):
                return await publish(*events)
            at_work.set()
            return await asyncio.Event().wait()  # as where the journal has no majority

        monkeypatch.setattr(bus, "publish", silent)
        if what == "asked":
            asking = asyncio.create_task(door.embed("slow"))
            await eventually(lambda: bool(door.player.asked))
        else:
            given = {"query": "q", "relevant": ["a"]}
            asking = asyncio.create_task(door.client.post("/v1/feedback", json=given))
            await asyncio.wait_for(at_work.wait(), 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await door.service.drain()
        answer = await asyncio.wait_for(asking, 10)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "fleet_unavailable"
    assert "ask again" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]


async def test_requests_are_counted_for_the_heartbeat(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        before = dict(door.service.counters)
        await door.embed()
        await door.embed("")
        await door.embed("internal")
        after = door.service.counters

    assert after["requests"] - before["requests"] == 3
    assert after["refused"] - before["refused"] == 1
    assert after["failed"] - before["failed"] == 1


def started(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """The process alone, until it ends by itself: there is a broker that it need not reach."""
    config = folder / "settings.toml"
    config.write_text("\n".join(("[api]", *lines)))
    command = [sys.executable, "-m", "tests.services.api.alone", "--config", str(config)]
    return subprocess.run(
        [*command, "--state", str(folder / "state")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_door_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    ended = started(tmp_path, 'host = "0.0.0.0"')

    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("api: the API is not bound to 0.0.0.0 without a key")
    assert "consonance keys create" in last


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ended = started(tmp_path, f"port = {port}")

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        f"api: The API cannot bind port {port} of 127.0.0.1: it is in use; set api.port."
    )


async def test_two_that_take_the_same_port_at_the_same_time_know_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both bind it, as long as neither listens."""
    with bound(ApiSettings(host="127.0.0.5")) as free:
        port = free.getsockname()[1]
    quicker, slower = (bound(ApiSettings(port=port, host="127.0.0.5")) for _ in range(2))
    with quicker:
        quicker.listen()
        monkeypatch.setattr(api_address, "bound", lambda _: slower)
        with pytest.raises(SettingsError, match="another was quicker"):
            async with asyncio.timeout(5), opened(tmp_path):
                pass


async def test_with_a_key_it_may_be_bound_wide(tmp_path: Path) -> None:
    token = KeyStore.of(tmp_path).create("one", {"read"})
    async with opened(tmp_path, host="0.0.0.0") as door:  # noqa: S104 (that is the point)
        assert door.url.startswith("http://127.0.0.1:")
        refused = await door.client.get("/v1/models")
        headers = {"Authorization": f"Bearer {token}", "Host": "embeddings.example"}
        taken = await door.client.get("/v1/models", headers=headers)
        door.keys.revoke("one")
        after = await door.client.get("/v1/models")

    assert (refused.status_code, taken.status_code) == (401, 200)
    assert after.status_code == 401, "without any key nobody from outside gets in"


def test_it_is_up_without_torch_in_well_under_a_second(tmp_path: Path) -> None:
    code = (
        "import time; start = time.process_time()\n"
        "import sys, services.api.service\n"
        "print(time.process_time() - start, 'torch' in sys.modules, 'zmq' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, torch, _ = ended.stdout.split()
    assert torch == "False"
    assert float(seconds) < 2.5, "some 0.6 s on a machine that does nothing else"
