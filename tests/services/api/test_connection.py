"""Connections that nobody may hold for ever: silent ones, slow ones, too many of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.api import connection
from tests.services.api.kit import Door, opened


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


def port(door: Door) -> int:
    found = httpx.URL(door.url).port
    assert found is not None
    return found


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that is said until the other side ends the connection."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "],
    ids=["silent", "half a head"],
)
async def test_a_request_that_does_not_come_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(door))
    writer.write(begun)
    assert await ended(reader) == b""
    writer.close()


async def test_a_head_in_drops_has_no_longer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(door))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")

    async def drip() -> None:
        writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert await ended(reader) == b""
    dripping.cancel()
    writer.close()


async def test_a_request_at_work_may_take_longer_than_its_head(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD", 0.1)
    slow = asyncio.create_task(door.embed("slow"))
    while not door.player.asked:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.3)
    door.player.release.set()
    assert (await slow).status_code == 200


def asking(door: Door, texts: int) -> socket.socket:
    """Somebody who asks for much and takes nothing of it."""
    body = json.dumps({"input": [f"t{n}" for n in range(texts)], "model": "base"}).encode()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.connect(("127.0.0.1", port(door)))
    stuck.sendall(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    return stuck


async def stalled(door: Door) -> connection.Connection:
    """The connection whose answer waits for its caller."""
    server = door.service._server
    assert server is not None
    async with asyncio.timeout(20):
        while True:
            for one in server.server_state.connections:
                assert isinstance(one, connection.Connection)
                if one.transport.get_write_buffer_size() and one.idle:
                    return one
            await asyncio.sleep(0.01)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system itself holds of an answer is little, however much it would."""
    made = connection.Connection.connection_made

    def narrow(self: connection.Connection, transport: asyncio.Transport) -> None:
        held = transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(connection.Connection, "connection_made", narrow)


@pytest.mark.usefixtures("small")
async def test_an_answer_that_nobody_takes_is_forgotten(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALLED", 0.2)
    server = door.service._server
    assert server is not None
    with asking(door, 200):
        stuck = await stalled(door)
        async with asyncio.timeout(10):
            while stuck in server.server_state.connections:
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("small")
async def test_who_takes_nothing_does_not_keep_the_process_from_ending(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LEAVING", 0.2)
    with asking(door, 200):
        await stalled(door)
        async with asyncio.timeout(10):
            await door.service.drain()


@pytest.mark.usefixtures("small")
async def test_who_takes_an_answer_slowly_gets_it_all(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALLED", 0.5)
    with asking(door, 200) as slow:
        stuck = await stalled(door)
        loop, told = asyncio.get_running_loop(), b""
        began = loop.time()
        slow.setblocking(False)
        while stuck.transport.get_write_buffer_size() or b"}}" not in told[-4:]:
            told += await loop.sock_recv(slow, 4096)
            await asyncio.sleep(0.04)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(json.loads(body)["data"]) == 200
    assert loop.time() - began > 2 * connection.STALLED, "longer than nothing may be taken"


async def test_beyond_so_many_the_one_that_was_silent_for_longest_gives_way(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = door.service._server
    assert server is not None
    # The client's own connection is at work meanwhile: it stays.
    slow = asyncio.create_task(door.embed("slow"))
    while not door.player.asked:
        await asyncio.sleep(0.005)
    monkeypatch.setattr(connection, "MOST", len(server.server_state.connections) + 2)

    first, *others = [await asyncio.open_connection("127.0.0.1", port(door)) for _ in range(3)]

    assert await ended(first[0]) == b""
    for reader, writer in others:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    door.player.release.set()
    assert (await slow).status_code == 200
    for _, writer in (first, *others):
        writer.close()
