"""Who asks the journal in masses is put off, our clients come again, and others are served."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
import zmq
import zmq.asyncio

import bus
import schemas
from bus.broker import Broker, outstanding
from bus.broker.core import Core
from bus.broker.outstanding import LEASES, LONG
from bus.client import ClientBus
from bus.settings import BrokerSettings
from bus.sockets import PARTS
from schemas import EventRefused, FeedbackGiven, TrainingProgressed
from tests.bus.guests import house
from tests.bus.kit import eventually, feedback, progress, short_folder

CALLS = 4 * LONG
LEASE = {"group": "g", "types": ["feedback.given"], "wait_ms": 60_000}


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than there are: it takes less time to ask so much."""
    monkeypatch.setattr("bus.broker.core.CALLS", CALLS)


@contextmanager
def busy(core: Core) -> Iterator[None]:
    """The journal does nothing else until the block is left."""
    done = threading.Event()
    core.writer.submit(lambda journal: done.wait(30), lambda result: None)
    try:
        yield
    finally:
        done.set()


def loaded(core: Core) -> bool:
    """Whether somebody has under way what he may."""
    return any(calls >= CALLS for calls, _ in core._asked._under_way.values())


class Asker:
    """A bare DEALER that asks without waiting."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self._asked = 0

    async def ask(self, verb: str, request: str | None = None, **body: Any) -> str:
        """Send it; the request's id."""
        self._asked += 1
        name = request or str(self._asked)
        frames = [name.encode(), verb.encode(), json.dumps(body).encode()]
        await self.socket.send_multipart(frames)
        return name

    async def append(self, n: int, size: int = 1) -> str:
        event = feedback(n)
        data = FeedbackGiven(query="x" * size, relevant=())
        raw = schemas.encode(schemas.Event(data=data, source=event.source, id=event.id))
        return await self.ask("append", events=[json.loads(raw)])

    async def answer(self) -> tuple[str, str, Any]:
        """The request's id, `ok` or the error's code, and the body."""
        name, status, answer = await asyncio.wait_for(self.socket.recv_multipart(), 10)
        body = json.loads(answer)
        return name.decode(), "ok" if status == b"ok" else body["code"], body


class Place:
    """A broker on ipc, in this process, and who asks it."""

    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.core = broker.core
        self._stack = stack
        self._context = zmq.asyncio.Context()
        stack.callback(self._context.destroy, linger=0)

    def asker(self, receives: int = 1000) -> Asker:
        """Who takes so many answers before he reads them."""
        socket = self._context.socket(zmq.DEALER)
        socket.rcvhwm = receives
        socket.connect(f"{self.broker.url}/journal.sock")
        return Asker(socket)


@asynccontextmanager
async def place(**settings: Any) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        state = stack.enter_context(short_folder())
        broker = Broker(f"ipc://{state}/bus", state, BrokerSettings(**settings))
        yield Place(await stack.enter_async_context(broker), stack)


async def test_who_asks_too_much_at_once_is_put_off_and_others_are_not() -> None:
    async with place() as here:
        one, other = here.asker(), here.asker()
        with busy(here.core):
            for n in range(CALLS):
                await one.append(n)
            late = [await one.append(CALLS + n) for n in range(3)]
            for name in late:
                told, code, body = await one.answer()
                assert (told, code) == (name, "overloaded")
                assert 0 < body["retry_after_ms"] <= 1000
                assert f"at most {CALLS}" in body["message"]
            theirs = await other.ask("heads")
        assert [(await one.answer())[1] for _ in range(CALLS)] == ["ok"] * CALLS
        assert (await other.answer())[:2] == (theirs, "ok")
        await one.append(CALLS)  # it comes again, as it was told
        assert (await one.answer())[1] == "ok"
        assert here.core.counters["put_off"] == 3


async def test_answers_wait_until_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.broker.core.CALLS", outstanding.CALLS)
    async with place() as here:
        one, many = here.asker(receives=1), outstanding.CALLS
        with busy(here.core):
            for _ in range(many):
                await one.ask("heads")
            await eventually(lambda: here.core.writer.queued >= many)
        await eventually(lambda: not here.core.writer.queued)
        assert [(await one.answer())[1] for _ in range(many)] == ["ok"] * many


async def test_reading_counts_more_than_appending() -> None:
    async with place() as here:
        one = here.asker()
        with busy(here.core):
            for _ in range(CALLS // LONG):
                await one.ask("read")
            late = await one.ask("heads")
            assert (await one.answer())[:2] == (late, "overloaded")
        for _ in range(CALLS // LONG):
            assert (await one.answer())[1] == "ok"


async def test_bytes_count_but_a_single_request_may_be_larger_than_the_share() -> None:
    async with place(writer_queue_bytes=2**20, max_event_bytes=2**20) as here:
        one = here.asker()
        with busy(here.core):
            first, second = await one.append(1, 2**19 + 1), await one.append(2, 2**10)
            name, code, body = await one.answer()
            assert (name, code) == (second, "overloaded")
            assert "bytes" in body["message"]
        assert (await one.answer())[:2] == (first, "ok")


async def test_where_the_journal_has_too_much_to_do_everybody_is_put_off() -> None:
    async with place(writer_queue_bytes=2**20, max_event_bytes=2**20) as here:
        one, two, three = here.asker(), here.asker(), here.asker()
        with busy(here.core):
            await one.append(1, 2**19 + 1)
            await two.append(2, 2**19 + 1)
            await eventually(lambda: here.core.writer.queued_bytes > 2**20)
            await three.ask("heads")
            _, code, body = await three.answer()
            assert (code, "too much to do" in body["message"]) == ("overloaded", True)
        assert [(await each.answer())[1] for each in (one, two)] == ["ok", "ok"]


async def test_leases_that_wait_are_bounded_and_one_in_the_place_of_another_is_not() -> None:
    async with place() as here:
        one, other = here.asker(), here.asker()
        for n in range(LEASES):
            await one.ask("lease", f"l{n}", **LEASE)
        late = await one.ask("lease", **LEASE)
        assert (await one.answer())[:2] == (late, "overloaded")
        await one.ask("lease", "l0", **LEASE | {"max": 0})  # ends the wait
        assert (await one.answer())[:2] == ("l0", "ok")
        await one.ask("lease", "again", **LEASE)
        await other.append(1)
        assert (await other.answer())[1] == "ok"
        _, code, body = await one.answer()
        assert (code, len(body["deliveries"])) == ("ok", 1)


async def test_over_tcp_a_keys_connections_share() -> None:
    async with house() as home:
        one, two, victim = (home.guest(name) for name in ("eve", "eve", "victim"))
        askers = [Asker(guest.journal) for guest in (one, two, victim)]
        assert (await victim.ask("heads"))[0] == (await two.ask("heads"))[0] == "ok"
        with busy(home.broker.core):
            for _ in range(CALLS // LONG):
                await askers[0].ask("read")
            await eventually(lambda: loaded(home.broker.core))
            name = await askers[1].ask("heads")
            assert (await askers[1].answer())[:2] == (name, "overloaded")
            name = await askers[2].ask("heads")
        assert (await askers[2].answer())[:2] == (name, "ok")


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[tuple[ClientBus, Core]]:
    """A client of ours, and the core of its bus."""
    if kind == "memory":
        async with bus.MemoryBus(source="/a/1") as one:
            yield one, one.link._core()  # type: ignore[attr-defined]
    else:
        async with place() as here, await bus.connect(here.broker.url, source="/a/1") as found:
            assert isinstance(found, ClientBus)
            yield found, here.core


@pytest.mark.parametrize("kind", ["memory", "ipc"])
async def test_our_clients_come_again_by_themselves(kind: str) -> None:
    async with connected(kind) as (one, core):
        with busy(core):
            asking = [asyncio.create_task(one.heads()) for _ in range(CALLS + 40)]
            asking.append(asyncio.create_task(one.publish(feedback(1))))  # type: ignore[arg-type]
            await eventually(lambda: core.counters["put_off"] >= 41)
        async with asyncio.timeout(20):
            *_, (number,) = await asyncio.gather(*asking)
        assert number == 1
        assert one.statistics().refused == 0


@pytest.mark.parametrize("kind", ["memory", "ipc"])
async def test_a_client_whose_patience_ends_first_is_told_why(kind: str) -> None:
    async with connected(kind) as (one, core):
        with busy(core):
            asking = [asyncio.create_task(one.heads()) for _ in range(CALLS)]
            await eventually(lambda: loaded(core))
            one.patience = 0.3
            with pytest.raises(bus.Overloaded, match="too many requests"):
                await one.heads()
            with pytest.raises(bus.Overloaded):
                await asyncio.gather(one.publish(feedback(1)), one.publish(feedback(2)))
        await asyncio.gather(*asking)


async def test_what_comes_over_ingress_in_masses_is_dropped_and_others_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bus.broker.core.INCOMING", 3)
    async with bus.MemoryBus(source="/a/1") as one:
        core = one.link._core()  # type: ignore[attr-defined]
        with busy(core):
            for n in range(5):
                core.ingress(schemas.frames(feedback(n, source="/loud/1")))
            core.ingress(schemas.frames(feedback(9, source="/b/1")))
        await eventually(lambda: core.counters["appended"] == 4)
        assert core.counters["dropped"] == 2
        core.ingress(schemas.frames(feedback(4, source="/loud/1")))  # sent again: no receipt came
        await eventually(lambda: core.counters["appended"] == 5)


async def test_a_message_of_too_many_parts_is_refused_with_a_sentence() -> None:
    async with (
        place() as here,
        await bus.connect(here.broker.url, source="/test/1") as one,
        one.watch(EventRefused, to="/test/1") as refusals,
        one.watch(TrainingProgressed) as events,
    ):
        long, short = progress(1), progress(2)
        for message in ([*schemas.frames(long), *[b"x"] * PARTS], schemas.frames(short)):
            assert one.link.send(message)  # type: ignore[attr-defined]
        told = (await refusals.get(10)).data
        assert (told.id, told.code) == (long.id, "too_large")
        assert told.message == f"a message has at most {PARTS} frames"
        assert (await events.get(10)).id == short.id
