"""No key stands in a log, an event, a file but its own, a command line or the trace of a crash."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import structlog

import bus
from bus.security import make_broker_keys, make_client_keys, read_pair
from schemas import FleetHeartbeat
from schemas.base import catalogue
from services.api.keys import KeyStore
from services.federation.authority import create_authority, issue
from services.federation.credentials import Credentials
from services.fleet.init import initialise
from services.runtime import logs
from tests.bus.kit import feedback, free_port
from tests.fleet.harness import ROOT
from tests.fleet.planted import command_lines, files, kept_in, leaks

TEACHERS = {"by variable": "sk-planted-4f9d1c7e2b", "by file": "sk-planted-b07e55aa91"}
Started = AbstractContextManager[subprocess.Popen[bytes]]
READY = {"api", "distiller", "federation"}
SETTINGS = """
[fleet]
log_level = "debug"
[distiller]
teacher = "openai"
[teacher]
base_url = "http://127.0.0.1:9/v1"
model = "some"
{key}
[federation]
node = "alpha"
discovery = false
[api]
port = {port}
"""

pytestmark = pytest.mark.timeout(120)


@contextmanager
def started(
    log: Path, environment: dict[str, str], *words: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose every word goes to `log`."""
    with log.open("ab") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=told, stderr=told
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def heard(found: bus.Subscription, into: dict[str, bytes], ready: asyncio.Event) -> None:
    services = set()
    async for event in found:
        into[f"event {len(into)}: {event.type}"] = repr(event).encode()
        if isinstance(event.data, FleetHeartbeat) and event.data.state == "ready":
            services.add(event.data.service)
            if services >= READY:
                ready.set()


async def asked(url: str, token: str) -> None:
    """As it should be, and in the ways in which people get it wrong."""
    async with httpx.AsyncClient(base_url=url) as client:
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/v1/status", headers=bearer)).status_code == 200
        for query, headers in (
            (f"?api_key={token}", {}),
            ("", {"Authorization": f"Basic {token}"}),
            ("", {"Authorization": f"Bearer {token}x"}),
            ("", {"x-api-key": token}),
        ):
            answer = await client.get(f"/v1/status{query}", headers=headers)
            assert (answer.status_code, token in answer.text) == (401, False)
        odd = await client.post(f"/{token}", headers=bearer, content=token)
        assert odd.status_code in (404, 405)
        typed = {**bearer, "Content-Type": "application/json"}
        broken = await client.post("/v1/embeddings", headers=typed, content=f'{{"model": {token}')
        assert (broken.status_code, token in broken.text) == (400, False)


async def strangers(url: str, state: Path) -> None:
    """One who is admitted, and one who is not."""
    own = make_client_keys(state / "keys", "app")
    other = make_client_keys(state.parent / "stranger", "stranger")
    server = state / "keys" / "broker.key"
    async with await bus.connect(url, source="/app/1", key=own, server_key=server) as client:
        await client.publish(feedback(1, source="/app/1"))
    with pytest.raises(bus.NotPermitted):
        await bus.connect(url, source="/app/1", patience=10, key=other, server_key=server)


async def test_planted_keys_come_up_nowhere(short_path: Path) -> None:
    """Real processes at `debug`: CURVE, certificates, a teacher's key twice, tokens of the API."""
    state, log, port = short_path / "state", short_path / "log", free_port()
    ipc, tcp = f"ipc://{state / 'bus'}", f"tcp://127.0.0.1:{free_port()}"
    initialise(state, ipc)
    make_broker_keys(short_path / "far" / "keys")
    environment = {**os.environ, "PLANTED": TEACHERS["by variable"], "PYTHONPATH": str(ROOT)}
    file = state / "keys" / "teacher"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.touch(0o600)
    file.write_text(TEACHERS["by file"])
    token = KeyStore.of(state).create("search", ["admin"])
    create_authority(short_path / "ca", "ours")
    issue(short_path / "ca", "alpha", state / "keys" / "tls")
    configs = [short_path / "settings.toml", short_path / "other.toml"]
    for config, key in zip(configs, ('key_env = "PLANTED"', f'key_file = "{file}"'), strict=True):
        config.write_text(SETTINGS.format(key=key, port=port))
    places: dict[str, bytes] = {}
    ready = asyncio.Event()

    def start(name: str, config: Path = configs[0], at: Path = state, url: str = ipc) -> Started:
        places_of = ("--state", str(at), "--config", str(config))
        own = ("--url" if name == "bus" else "--bus", url)
        return started(log, environment, name, *own, "--log-level", "debug", *places_of)

    with start("bus") as broker:
        async with (
            await bus.connect(ipc, source="/test/1") as client,
            client.watch(tuple(catalogue().values())) as found,
        ):
            hearing = asyncio.create_task(heard(found, places, ready))
            with (
                start("bus", at=short_path / "far", url=tcp) as far,
                start("services.distiller") as one,
                start("services.federation") as two,
                start("services.api") as three,
            ):
                await strangers(tcp, short_path / "far")
                async with asyncio.timeout(60):
                    await ready.wait()
                await asked(f"http://127.0.0.1:{port}", token)
                pids = [one.pid for one in (broker, far, one, two, three)]
                places |= command_lines(*pids)
            hearing.cancel()
        # A crash, with the other key: what the distiller keeps is no database any more.
        for store in (state / "distiller").glob("*.sqlite*"):
            store.write_bytes(b"no database" * 1000)
        with start("services.distiller", configs[1]) as crashed:
            assert await asyncio.to_thread(crashed.wait, 60) != 0

    own_places = [state / "keys", short_path / "far" / "keys", short_path / "ca"]
    own_places.append(short_path / "stranger")
    secrets = {name: key.encode() for name, key in TEACHERS.items()} | {"token": token.encode()}
    for folder in own_places:
        secrets |= kept_in(folder)
    places |= files(short_path, but=own_places)
    assert secrets.keys() >= {"broker.key_secret", "app.key_secret", "node.key", "tls/node.key"}
    assert b"database" in places["log"], "the crash was to be seen"
    assert len([name for name in places if name.startswith("event")]) > 3
    assert leaks(secrets, places) == []
    kept = files(state / "keys", but=[file, *(state / "keys").rglob("*.key")])
    assert leaks(secrets, kept) == [], "of a token the hash is kept alone"


def test_a_leak_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"key=" + b"c2stcGxhbnRlZC00ZjlkMWM3ZTJi" + b"\n")
    secrets = {"key": TEACHERS["by variable"].encode()}

    assert leaks(secrets, files(tmp_path)) == ["key in log"]
    assert leaks(secrets, {"a": TEACHERS["by variable"].encode().hex().encode(), "b": b"sk"}) == [
        "key in a"
    ]
    assert leaks(secrets, command_lines(os.getpid())) == []


@pytest.mark.parametrize("json", [True, False], ids=["json", "people"])
def test_the_trace_of_a_crash_shows_no_local_variable(json: bool) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("distiller", "1", "debug", json=json, stream=stream)

    def fails(secret: str) -> None:
        kept = [secret, {"authorization": secret}]
        raise ValueError(f"{len(kept)} things failed")

    try:
        for log in (structlog.get_logger().exception, logging.getLogger("library").exception):
            try:
                fails("".join(("sk-", "planted")))
            except ValueError:
                log("failed")
    finally:
        structlog.reset_defaults()
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)

    said = stream.getvalue()
    assert said.count("ValueError: 2 things failed") == 2
    assert "sk-planted" not in said


def test_what_holds_a_key_does_not_show_it(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    make_client_keys(keys, "app")
    create_authority(tmp_path / "ca", "ours")
    issue(tmp_path / "ca", "alpha", keys / "tls")

    shown = [read_pair(keys / "app.key_secret"), Credentials.load(keys / "tls", "alpha")]

    assert len(kept_in(keys)) == 2
    assert leaks(kept_in(keys), {repr(type(one)): f"{one!r} {one}".encode() for one in shown}) == []
