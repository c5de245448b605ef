"""When something is full, broken or slow: told with its code, and nobody else suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

import bus
import schemas
from bus.broker import Broker
from bus.journal import Entry, Journal
from bus.journal.writer import Committed, Writer
from schemas import Event, FeedbackGiven, FleetHeartbeat, SkillListed, TrainingProgressed
from tests.bus.kit import BrokerProcess, eventually, feedback, progress, question, short_folder

LARGE = bytes(100_000)


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def process(state: Path) -> Iterator[BrokerProcess]:
    """A broker, to be started."""
    made = BrokerProcess(state)
    yield made
    made.stop()


async def results_of(*operations: Callable[[Journal], Any]) -> list[Any]:
    """What each comes to in the journal's thread; in one group, probably."""
    committed: list[Committed] = []
    writer = Writer(lambda: Journal(None), committed.append)
    await writer.start()
    try:
        for operation in operations:
            writer.submit(operation, lambda result: None)
        await eventually(lambda: sum(len(it.results) for it in committed) == len(operations))
    finally:
        await writer.stop()
    return [result for group in committed for _, result in group.results]


@contextmanager
def deaf(url: str) -> Iterator[None]:
    """Somebody who subscribes to everything, and reads nothing."""
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.linger, socket.rcvhwm = 0, 10
    socket.subscribe(b"")
    socket.reconnect_ivl = -1
    socket.connect(f"{url}/egress.sock")
    try:
        yield
    finally:
        context.destroy(linger=0)


async def answer(
    one: bus.Bus, answers: bus.Subscription, times: int, *attachments: bytes, patience: float = 20
) -> None:
    """Publish so many, and hear each within `patience` seconds."""
    ask = question(one.address)
    for n in range(times):
        reply = ask.derive(
            SkillListed(cards=()),
            source="/b/1",
            to=one.address,
            ordinal=n,
            attachments=attachments,
        )
        await one.publish(reply)
        await answers.get(patience)


async def test_a_full_disk_refuses_and_reading_goes_on() -> None:
    def fill(journal: Journal) -> None:
        (pages,) = journal.connection.execute("PRAGMA page_count").fetchone()
        journal.connection.execute(f"PRAGMA max_page_count = {pages + 3}")

    def append(n: int, size: int) -> Callable[[Journal], Any]:
        data = FeedbackGiven(query="x" * size, relevant=())
        raw = schemas.encode(Event(data=data, source="/test/1", id=f"f{n}"))
        return lambda journal: journal.append([Entry(data.type, "/test/1", f"f{n}", raw)])

    # What does not fit must not take the others with it.
    _, small, large, heads = await results_of(
        fill, append(1, 10), append(2, 10**6), lambda journal: journal.heads()
    )
    assert small == [(1, False)]
    assert isinstance(large, bus.DiskFull)
    assert heads == {"feedback.given": 1}


async def test_an_operation_that_fails_ends_nothing() -> None:
    failed, done = await results_of(lambda journal: 1 / 0, lambda journal: 2)
    assert isinstance(failed, bus.BusError)
    assert done == 2


async def test_what_a_consumer_cannot_decode_is_a_dead_letter(
    state: Path, process: BrokerProcess
) -> None:
    journal = Journal(state / "journal.sqlite")  # of a program that takes what this one does not
    events = [schemas.encode(feedback(n)) for n in (1, 2, 3)]
    events[0] = events[0].replace(b'"query":"q1"', b'"query":[1]')
    journal.begin()
    kind = FeedbackGiven.type
    journal.append([Entry(kind, "/test/1", f"f{n}", raw) for n, raw in enumerate(events, 1)])
    journal.commit()
    newer = journal.event(1)
    journal.close()
    process.start()
    async with await bus.connect(process.url, source="/a/1") as one:
        async with one.consume("g", FeedbackGiven) as work:
            assert (await work.get(5)).event.id == "f2"
        (letter,) = await one.dead_letters()
        assert letter.event is None
        assert letter.raw == newer
        assert "query" in letter.reason
        assert [e.id for e in (await one.read()).events] == ["f2", "f3"]
        async with one.watch(FeedbackGiven, after=0) as events:
            assert [(await events.get(5)).id for _ in range(2)] == ["f2", "f3"]


async def test_a_consumer_goes_on_where_a_dead_letter_could_not_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bus.MemoryBus(source="/a/1") as one:
        decode, call = schemas.decode, one.call

        def unreadable(raw: bytes, **more: Any) -> Event[Any]:
            event = decode(raw, **more)
            if event.id == "f1":
                raise schemas.InvalidData("too new", raw)
            return event

        async def lapsed(verb: str, request: Any) -> bytes:
            if verb == "nack":
                await asyncio.sleep(0.05)
                raise bus.StaleLease("too late")
            return await call(verb, request)

        await one.publish(feedback(1))
        monkeypatch.setattr("bus.client.consumer.schemas.decode", unreadable)
        monkeypatch.setattr(one, "call", lapsed)
        async with one.consume("g", FeedbackGiven) as work:
            waiting = asyncio.create_task(work.get(10))
            await eventually(lambda: one.statistics().refused == 1)
            monkeypatch.setattr("bus.client.consumer.schemas.decode", decode)
            await one.publish(feedback(2))
            assert (await waiting).event.id == "f2"


async def test_a_slow_subscriber_slows_nobody(process: BrokerProcess) -> None:
    process.start()
    async with (
        await bus.connect(process.url, source="/fast/1") as fast,
        await bus.connect(process.url, source="/slow/1") as slow,
        slow.watch(TrainingProgressed),
        fast.watch(TrainingProgressed) as events,
    ):
        slow.link._subscriber.pause()  # type: ignore[attr-defined]  # a process that hangs
        for n in range(3000):
            await fast.publish(progress(n))
        assert [(await events.get(5)).data.step for _ in range(3000)] == list(range(3000))
        assert await fast.publish(feedback(1)) == (1,)


async def test_who_never_reads_is_cut_off_where_memory_is_short(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"ipc://{state}/bus"
    settings = bus.BrokerSettings(heartbeat_seconds=0.05)
    async with (
        Broker(url, state, settings),
        await bus.connect(url, source="/a/1") as one,
        one.watch(SkillListed) as answers,
        one.watch(FleetHeartbeat) as beats,
    ):

        async def told(subscribers: int, cut: int) -> None:
            async with asyncio.timeout(10):
                async for beat in beats:
                    found = beat.data.counters
                    if (found["subscribers"], found["subscribers_cut"]) == (subscribers, cut):
                        return

        with deaf(url):
            await told(2, 0)
            await answer(one, answers, 200, LARGE, patience=5)
            await told(2, 0)  # it may be slow while there is room
            monkeypatch.setattr("bus.broker.broker.MEMORY", 0)
            await told(1, 1)
            await answer(one, answers, 1)  # who reads stays


async def test_who_does_not_read_at_all_is_cut_off_before_the_next_heartbeat(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"ipc://{state}/bus"
    settings = bus.BrokerSettings(heartbeat_seconds=600.0)
    async with (
        Broker(url, state, settings) as broker,
        await bus.connect(url, source="/a/1") as one,
        one.watch(SkillListed) as answers,
    ):
        guard, subscribers = broker._guard, broker._connected["egress"].open
        assert guard is not None
        with deaf(url):
            await eventually(lambda: len(subscribers) == 2, 30)
            await answer(one, answers, 200, LARGE)
            assert guard.subscribers.cut == 0, "there is room"
            monkeypatch.setattr("bus.broker.broker.MEMORY", 0)
            await eventually(lambda: guard.subscribers.cut == 1, 30)
            await answer(one, answers, 1)  # who reads stays


async def test_who_asks_and_reads_no_answers_is_cut_off_where_memory_is_short(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"ipc://{state}/bus"
    settings = bus.BrokerSettings(heartbeat_seconds=600.0)
    context = zmq.Context()
    async with Broker(url, state, settings) as broker, await bus.connect(url, source="/a/1") as one:
        guard = broker._guard
        assert guard is not None
        large = FeedbackGiven(query="x" * 500_000, relevant=())
        await one.publish(*(Event(data=large, source="/a/1") for _ in range(4)))
        deaf = context.socket(zmq.DEALER)
        deaf.linger, deaf.rcvhwm = 0, 1
        deaf.reconnect_ivl = -1
        deaf.connect(f"{url}/journal.sock")
        for n in range(10):
            deaf.send_multipart([b"%d" % n, b"read", b"{}"])
        await eventually(lambda: not broker.core._asked._under_way, 30)
        await one.heads()
        assert not guard.cut, "there is room"
        monkeypatch.setattr("bus.broker.broker.MEMORY", 0)
        await eventually(lambda: guard.cut == 1, 30)
        assert await one.heads() == {FeedbackGiven.type: 4}  # who reads stays
        context.destroy(linger=0)


async def test_durable_events_that_were_lost_come_from_the_journal(process: BrokerProcess) -> None:
    process.start()
    async with (
        await bus.connect(process.url, source="/a/1") as one,
        await bus.connect(process.url, source="/b/1") as two,
        two.watch(FeedbackGiven) as events,
    ):
        await one.publish(feedback(1))
        assert (await events.get(5)).id == "f1"
        lose = two.link.on_message  # type: ignore[attr-defined]
        two.link.on_message = lambda message: None  # type: ignore[attr-defined]
        await one.publish(feedback(2), feedback(3))
        await one.publish(feedback(4))
        await two.heads()
        await asyncio.sleep(0.1)
        two.link.on_message = lose  # type: ignore[attr-defined]
        # No further event shows the gap: the broker's heartbeat does.
        assert [(await events.get(8)).id for _ in range(3)] == ["f2", "f3", "f4"]
        assert two.statistics().dropped == 3


def test_exported_names_are_listed_and_sorted() -> None:
    names = {name for name, value in vars(bus).items() if not name.startswith("_")}
    modules = {name for name in names if type(getattr(bus, name)).__name__ == "module"}
    assert names - modules - {"annotations"} == set(bus.__all__)
