"""More large events than can be taken: bounded memory, an answer, and nobody else suffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq

import bus
import schemas
from bus.broker import Broker
from bus.broker.broker import INGRESS, UNTOLD
from bus.client import ClientBus
from schemas import EncodeCompleted, EncodeFailed, EncodeRequested, Event, TrainingProgressed
from tests.bus.guests import vectors
from tests.bus.kit import BrokerProcess, progress, short_folder

SIZE = 1_000_000


def request(name: str, size: int = SIZE) -> list[bytes]:
    data = EncodeRequested(texts=("x" * size,), reply_to="a-1")
    return schemas.frames(Event(data=data, source="/a/1", id=name))


@contextmanager
def publisher(url: str) -> Iterator[Callable[[list[bytes]], None]]:
    """Sends without waiting or copying, over a connection of its own that is heard."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.linger, socket.sndhwm, socket.rcvtimeo = 0, 0, 10_000
    socket.connect(f"{url}/ingress.sock")
    try:
        yield lambda message: socket.send_multipart(message, copy=False)
    finally:
        context.destroy(linger=0)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


@contextmanager
def listening(url: str, topic: bytes) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that is live."""
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.linger, socket.rcvtimeo = 0, 10_000
    socket.subscribe(topic)
    socket.subscribe(b"_echo.live")
    socket.connect(f"{url}/egress.sock")
    try:
        assert socket.recv_multipart()[0] == b"_echo.live"
        yield socket
    finally:
        context.destroy(linger=0)


def test_a_flood_of_large_events_fills_no_memory() -> None:
    connections = 2
    with short_folder() as state, ExitStack() as stack:
        process = BrokerProcess(state)
        process.start()
        stack.callback(process.stop, kill=True)
        flood = request("flood")
        senders = [stack.enter_context(publisher(process.url)) for _ in range(connections)]
        listener = stack.enter_context(listening(process.url, b"_ping."))
        for send in senders:
            for _ in range(4 * INGRESS):
                send(flood)
            send([b"_ping.end", b""])  # behind all of it
        most, ended = 0, 0
        end = time.monotonic() + 60
        while ended < connections:
            assert time.monotonic() < end, "the flood was not worked off"
            most = max(most, resident(process.pid))
            ended += bool(listener.poll(50)) and len(listener.recv_multipart()) == 2
    assert most < connections * INGRESS * SIZE + 256 * 2**20


async def test_under_pressure_large_requests_are_told_to_come_again_and_all_else_passes() -> None:
    with short_folder() as state:
        url = f"ipc://{state}/bus"
        async with Broker(url, state) as broker, await bus.connect(url, source="/a/1") as one:
            assert broker._ingress is not None
            kinds = (EncodeFailed, EncodeCompleted, TrainingProgressed)
            async with one.watch(kinds) as events:

                def press(pressure: float, *messages: list[bytes]) -> None:
                    assert broker._ingress is not None
                    broker._ingress.pressure = pressure
                    for message in messages:
                        broker._heard(message)

                answer = schemas.frames(vectors("a-1"))
                answer[2:] = [bytes(SIZE)]
                press(1.0, request("large"), request("small", 10), answer)
                press(UNTOLD + 1.0, request("late"), answer, schemas.frames(progress(1)))
                failed = (await events.get(5)).data
                assert (failed.request_id, failed.code) == ("large", "overloaded")
                assert failed.retry_after_ms
                assert isinstance((await events.get(5)).data, EncodeCompleted)
                assert isinstance((await events.get(5)).data, TrainingProgressed)
            assert broker.core.counters["dropped"] == 3
            assert broker.core.counters["broadcast"] == 3


async def test_who_hears_more_large_events_than_can_be_taken_drops_them_and_counts_it() -> None:
    with short_folder() as state:
        url = f"ipc://{state}/bus"
        async with Broker(url, state), await bus.connect(url, source="/a/1") as one:
            assert isinstance(one, ClientBus)
            link = one.link
            async with one.watch(EncodeRequested) as events:
                link._subscriber.pressure = 1.0  # type: ignore[attr-defined]
                for message in (request("large"), request("small", 10)):
                    link._received(message)  # type: ignore[attr-defined]
                assert (await events.get(5)).id == "small"
            assert one.statistics().dropped == 1
