"""`GET /v1/events`: everything once, in order, however often a listener comes and goes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest

from bus import BrokerSettings, MemoryBus, Unreachable
from schemas import (
    EncodeRequested,
    Event,
    FeedbackGiven,
    FleetHeartbeat,
    LearningBatchRejected,
    Payload,
    TrainingProgressed,
)
from services.api import event_log, events
from services.api.event_log import EventLog
from services.api.events import EventHub
from tests.services.api.kit import Door, opened

GIVEN, REFUSED = FeedbackGiven.type, LearningBatchRejected.type


class Told(NamedTuple):
    """One server-sent event."""

    type: str
    id: int | None
    data: Any


def feedback(number: int) -> FeedbackGiven:
    return FeedbackGiven(query=f"q{number}", relevant=("a",))


def refusal(number: int) -> LearningBatchRejected:
    return LearningBatchRejected(batch_id=str(number), reason="too small")


def progress(step: int) -> TrainingProgressed:
    return TrainingProgressed(task_id="t", step=step, steps=9, loss=0.5, phase="head")


def beat() -> FleetHeartbeat:
    return FleetHeartbeat(
        service="router", instance="1", pid=1, state="ready", queue=0, rss_bytes=1, counters={}
    )


async def say(door: Door, *data: Payload) -> None:
    for one in data:
        await door.player.bus.publish(Event(data=one, source="/test/1"))


def hub_of(door: Door) -> EventHub:
    """What knows who listens."""
    server = door.service._server
    assert server is not None
    hub = server.config.app.state.events  # type: ignore[union-attr]
    assert isinstance(hub, EventHub)
    return hub


class Listener:
    """A client that reads the stream as its specification says."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.comments: list[str] = []
        self.last: int | None = None
        """What a browser would send as Last-Event-ID."""

    async def next(self) -> Told:
        """The next event; raises `StopAsyncIteration` at the end of the stream."""
        kind, data = "message", None
        number: int | None = None
        async with asyncio.timeout(20):
            while True:
                line = await anext(self._lines)
                name, _, value = line.partition(": ")
                if name == "" and line:
                    self.comments.append(value)
                elif name == "event":
                    kind = value
                elif name == "id":
                    number = self.last = int(value)
                elif name == "data":
                    data = json.loads(value)
                elif not line and data is not None:
                    return Told(kind, number, data)
                elif not line:
                    number = None

    async def several(self, count: int) -> list[Told]:
        return [await self.next() for _ in range(count)]

    async def until_alive(self, name: str = "alive") -> None:
        async with asyncio.timeout(20):
            while name not in self.comments:
                line = await anext(self._lines)
                if line.startswith(": "):
                    self.comments.append(line[2:])


@asynccontextmanager
async def listening(
    door: Door, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Listener]:
    async with door.client.stream("GET", f"/v1/events{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Listener(response)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


async def test_events_are_told_as_they_are_said(door: Door) -> None:
    async with listening(door) as listener:
        assert listener.response.headers["content-type"].startswith("text/event-stream")
        assert listener.response.headers["cache-control"] == "no-store"
        await say(door, feedback(1), progress(3))
        first, second = sorted(await listener.several(2))

    assert (first.type, first.id, first.data["sequence"]) == (GIVEN, 1, 1)
    assert first.data["data"] == {"query": "q1", "relevant": ["a"]}
    assert (first.data["specversion"], first.data["type"]) == ("1.0", GIVEN)
    assert (second.type, second.id) == ("training.progressed", None)
    assert second.data["data"]["step"] == 3


async def test_only_the_types_that_were_asked_for_are_told(door: Door) -> None:
    async with listening(door, f"?types={REFUSED},fleet.heartbeat&types=training.progressed") as it:
        await say(door, feedback(1), progress(1), refusal(2), feedback(3), beat())
        told = await it.several(3)
    assert {one.type for one in told} == {REFUSED, "training.progressed", "fleet.heartbeat"}


async def test_what_others_ask_and_how_they_are_is_not_told_by_itself(door: Door) -> None:
    async with listening(door) as listener:
        await door.embed("somebody's secret")
        await say(door, beat(), feedback(1))
        assert (await listener.next()).type == GIVEN


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("types=weather.changed", "types"),
        ("types=encode.requested", "types"),
        ("types=encode.completed", "types"),
        ("after=yesterday", "after"),
        ("after=-1", "after"),
        ("after=1e3", "after"),
        (f"after={'9' * 30}", "after"),
    ],
)
async def test_what_makes_no_sense_is_refused(door: Door, query: str, param: str) -> None:
    answer = await door.client.get(f"/v1/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert EncodeRequested.type not in answer.json()["error"]["message"].partition("there are")[2]


async def test_the_journal_is_replayed_beyond_a_number(door: Door) -> None:
    await say(door, *map(feedback, range(1, 6)))
    async with listening(door, "?after=2") as listener:
        await say(door, feedback(6))
        told = await listener.several(4)
    assert [one.id for one in told] == [3, 4, 5, 6]


async def test_a_browser_that_comes_again_goes_on_where_it_was(door: Door) -> None:
    """The header goes before the address, which still says where it began at first."""
    await say(door, *map(feedback, range(1, 4)))
    async with listening(door, "?after=0") as listener:
        assert [one.id for one in await listener.several(2)] == [1, 2]
        last = str(listener.last)
    async with listening(door, "?after=0", {"Last-Event-ID": last}) as listener:
        assert (await listener.next()).id == 3


async def test_who_was_cut_off_before_the_first_event_misses_nothing(door: Door) -> None:
    await say(door, feedback(1))
    async with listening(door) as listener:
        await say(door, progress(1))
        await listener.next()
        last = listener.last
    assert last == 1
    await say(door, feedback(2))
    async with listening(door, headers={"Last-Event-ID": str(last)}) as listener:
        assert (await listener.next()).id == 2


async def test_nothing_is_missed_and_nothing_told_twice_by_who_comes_and_goes(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is far behind: more than is in memory, in pages smaller than that."""
    monkeypatch.setattr(event_log, "KEPT", 20)
    monkeypatch.setattr(event_log, "PAGE", 7)
    count = 150

    async def speak() -> None:
        for number in range(count):
            await say(door, feedback(number), refusal(number))

    speaking = asyncio.create_task(speak())
    heard: list[int] = []
    turn = 0
    while len(heard) < count:
        last = {"Last-Event-ID": str(heard[-1] if heard else 0)}
        async with listening(door, f"?types={GIVEN}", last) as listener:
            turn += 1
            for _ in range(min(1 + 11 * turn % 40, count - len(heard))):
                told = await listener.next()
                assert told.type == GIVEN
                heard.append(told.id or 0)
    await speaking
    assert turn > 5
    assert heard == [2 * number + 1 for number in range(count)]


async def test_many_listeners_hear_the_same(door: Door) -> None:
    async def listen() -> list[int | None]:
        async with listening(door, f"?types={GIVEN}&after=0") as listener:
            return [told.id for told in await listener.several(100)]

    listeners = [asyncio.create_task(listen()) for _ in range(8)]
    await say(door, *map(feedback, range(100)))
    heard = await asyncio.gather(*listeners)
    assert heard == [list(range(1, 101))] * 8


async def test_no_more_listen_than_may(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STREAMS", 1)
    async with listening(door):
        answer = await door.client.get("/v1/events")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
    async with asyncio.timeout(20):
        while (await _status(door)) != 200:
            await asyncio.sleep(0.01)


async def _status(door: Door) -> int:
    async with door.client.stream("GET", "/v1/events") as response:
        return response.status_code


async def test_a_comment_keeps_the_line_where_nothing_is_said(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    async with listening(door) as listener:
        await listener.until_alive()


async def test_streams_end_when_the_process_is_to(door: Door) -> None:
    async with listening(door) as listener:
        await say(door, feedback(1))
        assert (await listener.next()).id == 1
        draining = asyncio.create_task(door.service.drain())
        with pytest.raises(StopAsyncIteration):
            await listener.next()
        assert listener.comments == ["the end of this stream; come again"]
        await asyncio.wait_for(draining, 10)


async def test_numbers_of_another_journal_are_told_to_be_so(door: Door) -> None:
    await say(door, feedback(1))
    async with listening(door, "?after=900") as listener:
        told = await listener.next()
        assert (told.type, told.id, told.data) == ("truncated", None, {"after": 900, "head": 1})
        await say(door, feedback(2))
        assert (await listener.next()).id == 2


async def test_what_retention_has_taken_is_said(tmp_path: Path) -> None:
    settings = BrokerSettings(retention_bytes=200_000, max_event_bytes=100_000)
    async with MemoryBus("truncated", source="/test/1", settings=settings) as bus:
        for number in range(60):
            data = FeedbackGiven(query=f"q{number}", relevant=("long " * 2000,))
            await bus.publish(Event(data=data, source="/test/1"))
        async with EventLog(bus) as log:
            reader = await log.reader([GIVEN], 3)
            told = []
            async for frames in reader.frames(5.0):
                told.append(frames)
                if b"id: 60\n" in frames:
                    reader.close()
    text = b"".join(told).decode()
    assert text.startswith('event: truncated\ndata: {"after":3,"head":60}\n\n')
    numbers = [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")]
    assert numbers == list(range(numbers[0], 61))
    assert numbers[0] > 4


async def test_a_reader_for_whom_too_much_waits_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_log, "WAITING", 10)
    async with MemoryBus("slow", source="/test/1") as bus, EventLog(bus) as log:
        slow = await log.reader(["training.progressed"], None)
        quick = await log.reader(["training.progressed"], None)
        heard: list[bytes] = []

        async def read() -> None:
            async for frames in quick.frames(5.0):
                heard.extend(frames.split(b"\n\n")[:-1])

        reading = asyncio.create_task(read())
        for step in range(200):
            await bus.publish(Event(data=progress(step), source="/test/1"))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while len(heard) < 200:
                await asyncio.sleep(0.01)
        assert (slow.slow, quick.slow) == (True, False)
        assert [frames async for frames in slow.frames(5.0)] == []
        quick.close()
        await reading


async def test_what_was_lost_on_the_way_is_told_in_its_place() -> None:
    """A listener is told in the journal's order even where the bus was not."""
    name = uuid4().hex
    async with (
        MemoryBus(name, source="/test/1") as behind,
        MemoryBus(name, source="/api/1") as bus,
    ):
        heard = bus.link.on_message

        def losing(message: Sequence[bytes]) -> None:
            if b'"q2"' not in message[1]:
                heard(message)

        bus.link.on_message = losing
        async with EventLog(bus) as log:
            reader = await log.reader([GIVEN, REFUSED], None)
            told = b""
            for data in (feedback(1), feedback(2), refusal(3), feedback(4)):
                await behind.publish(Event(data=data, source="/test/1"))
            async with asyncio.timeout(20):
                async for frames in reader.frames(5.0):
                    told += frames
                    if log.head == 4 and reader.after == 4:
                        reader.close()
    numbers = [int(line[4:]) for line in told.decode().splitlines() if line.startswith("id: ")]
    assert numbers == [1, 2, 3, 4]


async def test_a_listener_that_takes_nothing_is_let_go(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STALLED", 0.3)
    host, port = door.url.removeprefix("http://").split(":")
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        stuck.sendall(f"GET /v1/events?after=0 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        large = FeedbackGiven(query="q", relevant=("long " * 20_000,))
        async with listening(door, "?types=learning.batch_rejected"):
            async with asyncio.timeout(20):
                while hub_of(door).listeners < 2:
                    await asyncio.sleep(0.01)
                for _ in range(100):
                    await say(door, large)
                while hub_of(door).listeners > 1:
                    await asyncio.sleep(0.01)


async def test_while_the_bus_is_away_nobody_can_begin_to_listen(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(log: EventLog) -> EventLog:
        raise Unreachable("no broker answers")

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "__aenter__", away)
        answer = await door.client.get("/v1/events")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert (hub_of(door).listeners, hub_of(door).listens) == (0, False)
    async with listening(door) as listener:
        await say(door, feedback(1))
        assert (await listener.next()).id == 1


async def test_a_stream_ends_where_the_journal_does_not_answer(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listens comes again, and goes on where it was."""

    async def away(*_: object) -> None:
        raise Unreachable("no broker answers")

    async with listening(door) as listener:
        with monkeypatch.context() as patched:
            patched.setattr(EventLog, "following", away)
            await say(door, feedback(1))
            with pytest.raises(StopAsyncIteration):
                await listener.next()
    async with listening(door, headers={"Last-Event-ID": str(listener.last)}) as again:
        assert (await again.next()).id == 1


async def test_a_listener_that_goes_away_leaves_nothing(door: Door) -> None:
    for _ in range(3):
        async with listening(door) as listener:
            await say(door, feedback(1), progress(1))
            await listener.next()
            assert hub_of(door).listeners >= 1
    async with asyncio.timeout(20):
        while hub_of(door).listeners or hub_of(door).listens:
            await asyncio.sleep(0.01)
