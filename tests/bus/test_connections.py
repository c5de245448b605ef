"""Connections over tcp: how many a key has, and which are ended since they cost too much."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

import bus
from tests.bus.guests import Guest, House, house
from tests.bus.kit import eventually, feedback

FEW = """
[few]
publish = ["feedback.given"]
subscribe = ["fleet.heartbeat"]
connections = 2
"""
PLACES = ("ingress", "egress", "journal")


@pytest.fixture
async def home(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("bus.access.door.HANDSHAKE", 300)
    async with house() as found:
        (found.keys / "roles.toml").write_text(FEW)
        found.key("bob", role="few")
        yield found


async def speak(guest: Guest, place: str) -> None:
    """Say something over one of the connections, until it has come."""
    if place == "journal":
        assert (await guest.ask("heads"))[0] == "ok"
    elif place == "egress":
        await guest.listen("fleet.heartbeat")
    else:
        await guest.listen("_ping.me")
        await guest.say(b"_ping.me", b"")
        assert (await guest.next())[0] == b"_ping.me"


@contextmanager
def watched(connecting: zmq.Socket[bytes]) -> Iterator[Callable[[int], Awaitable[None]]]:
    """What returns once something has happened to the connection."""
    monitor: Any = connecting.get_monitor_socket()

    async def happened(events: int) -> None:
        async with asyncio.timeout(10):
            while not parse_monitor_message(await monitor.recv_multipart())["event"] & events:
                pass

    try:
        yield happened
    finally:
        connecting.disable_monitor()
        monitor.close()


@pytest.mark.parametrize("place", PLACES)
async def test_a_key_has_as_many_connections_as_its_role_says(
    home: House, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = home.guest("bob"), home.guest("bob")
    for guest in (first, second):
        for each in PLACES:
            await speak(guest, each)
    third = home.guest("bob")
    with watched(getattr(third, place)) as happened:
        await happened(zmq.EVENT_DISCONNECTED)
    assert f"the key 'bob' has 2 connections to {place}" in caplog.text
    await speak(home.guest("eve"), place)  # another key's have room

    first.close()
    for each in PLACES:  # it comes again by itself, now that there is room
        await speak(third, each)


@pytest.mark.parametrize("place", PLACES)
async def test_who_was_let_in_and_speaks_when_there_are_enough_is_ended(
    home: House, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose a connection is shows by its first message alone."""
    *others, late = (home.guest("bob") for _ in range(3))
    with watched(getattr(late, place)) as happened:
        await happened(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for guest in others:
            await speak(guest, place)
        first = late.say(b"_ping.me", b"") if place == "ingress" else speak(late, place)
        speaking = asyncio.create_task(first)
        await happened(zmq.EVENT_DISCONNECTED)
    assert f"ended a connection: the key 'bob' has 2 connections to {place}" in caplog.text
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)


async def test_a_client_that_finds_no_room_says_why_that_may_be(home: House) -> None:
    for _ in range(2):
        one = await home.bus("bob")
        await one.heads()
    with pytest.raises(bus.Unreachable, match="this key has as many as its role may"):
        await home.bus("bob", patience=0.5)


async def test_what_a_connection_said_before_it_ended_is_heeded(home: House) -> None:
    """Whether of its end is heard before its words or after them."""
    for n in range(5):
        async with await home.bus("bob", f"/bob/{n}") as one:
            await one.publish(feedback(n, source=f"/bob/{n}"))
    assert (await home.op.ask("heads"))[1]["heads"] == {"feedback.given": 5}


async def test_where_descriptors_are_short_who_never_said_anything_makes_room(
    home: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for place in PLACES:
        await speak(home.op, place)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr("bus.access.door.SPARE", most - 5)
    strangers = [await asyncio.open_connection("127.0.0.1", home.port) for _ in range(4)]
    for reader, _ in strangers[:2]:
        await asyncio.wait_for(reader.read(), 10)  # its greeting, and then the end
    assert caplog.text.count("never said anything: descriptors are short") == 2
    connected = home.broker._connected.values()
    await eventually(lambda: sum(len(each.open) for each in connected) == 5)
    for place in PLACES:
        await speak(home.op, place)
    for _, writer in strangers:
        writer.close()
        await writer.wait_closed()


# messages without an end

told = pytest.mark.skipif(sys.platform != "linux", reason="no other system tells what has come")


class Withholding:
    """Between a client and a broker: passes on so many bytes of the client's, and no more."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self.passed = 0
        self.ended = asyncio.Event()
        """The broker has ended the connection."""

    async def __aenter__(self) -> Withholding:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _accepted(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(self._answers(there, back))
        with contextlib.suppress(ConnectionError):
            while self.passed < self._most and (some := await here.read(2**16)):
                onward.write(some[: self._most - self.passed])
                self.passed += len(some)
                await onward.drain()
        await answers
        for writer in (back, onward):
            writer.close()

    async def _answers(self, there: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while some := await there.read(2**16):
                back.write(some)
        self.ended.set()


@asynccontextmanager
async def endless(home: House, place: str, size: int) -> AsyncIterator[Withholding]:
    """Somebody with a key sends so many bytes of a message, in small parts, but not its end."""
    port = home.port + PLACES.index(place)
    async with Withholding(port, size) as between:
        guest = home.guest("eve")
        connection = getattr(guest, place)
        connection.disconnect(f"tcp://127.0.0.1:{port}")
        connection.reconnect_ivl = -1
        connection.connect(f"tcp://127.0.0.1:{between.port}")
        if place == "ingress":
            await asyncio.wait_for(connection.recv(), 10)
        # libzmq's own client sends nothing of a message before it has all of it.
        await connection.send_multipart([b"x" * 1000] * (size // 800))
        async with asyncio.timeout(20):
            while between.passed < size:
                await asyncio.sleep(0.01)
        yield between
        connection.close()
        await asyncio.wait_for(between.ended.wait(), 10)


@told
@pytest.mark.parametrize("place", PLACES)
async def test_who_never_ends_a_message_is_ended_where_memory_is_short(
    home: House, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bus.broker.unended.MUCH", 2**18)
    monkeypatch.setattr("bus.broker.unended.LATE", 0.0)
    for each in PLACES:
        await speak(home.op, each)
    for _ in range(20):  # whole ones, and far more of them
        await home.op.say(b"_ping.large", bytes(2**16))
    await speak(home.op, "ingress")
    async with endless(home, place, 2**19) as between:
        guard = home.broker._guard
        assert guard is not None
        guard.look()
        guard.look()
        assert not guard.cut, "there is room"
        monkeypatch.setattr("bus.broker.broker.MEMORY", 0)
        await asyncio.wait_for(between.ended.wait(), 10)
        await eventually(lambda: guard.cut == 1)
        assert "bytes of a message without an end" in caplog.text
        for each in PLACES:
            await speak(home.op, each)
        assert guard.cut == 1


@told
async def test_more_of_a_message_than_any_may_have_is_too_much_wherever_there_is_room(
    home: House,
) -> None:
    guard = home.broker._guard
    assert guard is not None
    guard._unended._most = 2**19
    async with endless(home, "journal", 2**20) as between:
        async with asyncio.timeout(10):
            while not between.ended.is_set():  # what was sent on may not have come yet
                guard.look()
                await asyncio.sleep(0.05)
        assert guard.cut == 1
