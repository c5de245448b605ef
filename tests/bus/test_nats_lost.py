"""The bus on NATS after what befalls its servers: freezes, strangers, writes that come late."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import msgspec
import nats
import pytest

import bus
from bus.nats.connection import Connection
from bus.nats.group import Group
from bus.nats.names import Names, place_of
from bus.nats.probe import doubt
from bus.nats.rooms import Rooms
from bus.nats.server import Server
from tests.bus.kit import feedback
from tests.bus.nats_server import NatsServer, nats_binary

PATIENCE = 20.0
KEPT = 8


async def until_silent(connection: Connection) -> None:
    """A signal takes a moment to arrive."""
    while True:
        await connection.flush(0.1)


async def test_an_answer_that_nobody_waits_for_any_more_ends_no_connection(tmp_path: Path) -> None:
    """A server was frozen for longer than one waited for its pong."""
    nats_binary()
    server = NatsServer(tmp_path)
    server.start()
    connection = Connection(place_of(server.url), name="a")
    try:
        await connection.open(PATIENCE)
        server.freeze()
        with pytest.raises(bus.Unreachable):
            await until_silent(connection)
        server.thaw()
        end = asyncio.get_running_loop().time() + PATIENCE
        await connection.request("$JS.API.INFO", b"", end)
        assert not connection.reconnects
    finally:
        await connection.aclose()
        server.stop(kill=True)


async def test_it_reconnects_though_somebody_else_answered_meanwhile(tmp_path: Path) -> None:
    nats_binary()
    server = NatsServer(tmp_path)
    server.start()
    met = asyncio.Event()

    async def stranger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO\r\n")
        writer.close()
        await writer.wait_closed()
        met.set()

    try:
        async with await bus.connect(server.url, source="/a/1", patience=PATIENCE) as one:
            server.stop(kill=True)
            async with await asyncio.start_server(stranger, "127.0.0.1", server.port):
                await met.wait()
            server.start()
            await one.publish(feedback(1))
    finally:
        server.stop(kill=True)


async def test_a_state_of_long_ago_counts_for_nothing_though_what_it_was_made_of_is_gone(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several servers keep a few states of each group; a write may lie in one that was frozen."""
    monkeypatch.setattr(Connection, "clustered", True)
    names = Names(f"t{uuid4().hex[:12]}")
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(
        name=names.groups, subjects=[names.group("g")], max_msgs_per_subject=KEPT
    )
    connection = Connection(place_of(nats_server.url), name="a")
    await connection.open(PATIENCE)
    end = asyncio.get_running_loop().time() + PATIENCE
    server = Server(connection)
    others, late = Rooms(server, names), Rooms(server, names)
    tries = 0

    async def step(group: Group) -> tuple[bool, int]:
        group.cursors["others"] = group.cursors.get("others", 0) + 1
        return True, group.cursors["others"]

    async def slow(group: Group) -> tuple[bool, None]:
        nonlocal tries
        tries += 1
        if tries == 1:
            for _ in range(2 * KEPT):
                await others.change("g", step, end)
        group.cursors["late"] = tries
        return True, None

    async def look(group: Group) -> tuple[bool, dict[str, int]]:
        return False, group.cursors

    try:
        await others.change("g", step, end)
        await late.change("g", slow, end)
        assert tries == 2
        expected = {"others": 1 + 2 * KEPT, "late": 2}
        assert await others.change("g", look, end, fresh=True) == expected
        await client.jetstream().publish(
            names.group("g"), msgspec.json.encode(Group(cursors={"others": 1}, base=1))
        )
        assert await others.change("g", look, end, fresh=True) == expected
        assert await late.change("g", step, end, fresh=True) == 2 + 2 * KEPT
    finally:
        await connection.aclose()
        await client.close()


@pytest.mark.parametrize(
    ("replicas", "version", "said"),
    [
        (1, "2.12.3", "has one replica"),
        (3, "2.9.10", "version 2.9.10"),
        (3, "", "Take a current version"),
        (3, "2.10.0-beta.1", None),
        (3, "2.12.3", None),
    ],
    ids=["one replica", "old", "unknown", "beta", "current"],
)
def test_what_may_be_lost_is_told(replicas: int, version: str, said: str | None) -> None:
    found = doubt(replicas, version, "nats://host:4222")
    assert found is None if said is None else said in (found or "")
