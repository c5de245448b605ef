"""What is sent in one turn leaves together, in order; a full queue is told, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from bus.burst import MOST, Burst
from bus.sockets import LARGE, Drained
from tests.bus.kit import eventually

ROOM = 4
"""Messages that a queue takes on each side."""


@pytest.fixture
def far() -> Iterator[zmq.Socket[bytes]]:
    """The end at which nobody takes anything unless the test does."""
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.rcvhwm = ROOM
    socket.bind("inproc://far")
    yield socket
    context.destroy(linger=0)


@pytest.fixture
async def near(far: zmq.Socket[bytes]) -> Any:
    socket = far.context.socket(zmq.PAIR)
    socket.sndhwm = ROOM
    socket.connect("inproc://far")
    drained = Drained(socket, lambda _: None)
    yield drained
    drained.close()


def taken(far: zmq.Socket[bytes]) -> list[bytes]:
    """All that is there now: the first part of each message."""
    found = []
    while far.poll(0):
        found.append(far.recv_multipart()[0])
    return found


def named(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


async def test_a_turn_ends_with_all_that_was_sent_in_it(
    near: Drained, far: zmq.Socket[bytes]
) -> None:
    burst = Burst(near)
    assert all(burst.send([name, b"event"]) for name in named(3))
    assert not taken(far)
    await asyncio.sleep(0)
    assert taken(far) == named(3)
    await asyncio.sleep(0)
    assert burst.send([b"later", b"event"])
    await asyncio.sleep(0)
    assert taken(far) == [b"later"]


async def test_many_leave_before_the_turn_is_over(near: Drained, far: zmq.Socket[bytes]) -> None:
    burst = Burst(near)
    names = named(MOST + 1)
    sent = [burst.send([name, b""]) for name in names]
    assert taken(far) == names[: 2 * ROOM]
    assert sent == [True] * MOST + [False]


async def test_a_full_queue_is_told_and_what_was_taken_arrives_in_order(
    near: Drained, far: zmq.Socket[bytes]
) -> None:
    burst = Burst(near)
    names = iter(named(10_000))
    kept, refused, came = [], 0, []
    while refused < 5:  # in every turn a few
        for name in (next(names) for _ in range(3)):
            if burst.send([name, b"event"]):
                kept.append(name)
            else:
                refused += 1
        await asyncio.sleep(0)
    assert 2 * ROOM <= len(kept) <= 2 * ROOM + MOST

    def all_here() -> bool:
        came.extend(taken(far))
        return len(came) >= len(kept)

    await eventually(all_here)
    assert came == kept
    assert burst.send([b"room", b"again"])
    await asyncio.sleep(0)
    assert taken(far) == [b"room"]


async def test_what_waits_goes_before_what_is_sent_when_there_is_room(
    near: Drained, far: zmq.Socket[bytes]
) -> None:
    burst = Burst(near)
    names = named(2 * ROOM + 2)
    assert all(burst.send([name, b""]) for name in names)
    assert not burst.flush()
    came = taken(far)
    await eventually(lambda: burst.send([b"last", b""]))
    assert burst.flush()
    assert came + taken(far) == [*names, b"last"]


async def test_a_large_message_is_sent_at_once_and_in_order(
    near: Drained, far: zmq.Socket[bytes]
) -> None:
    burst = Burst(near)
    large = bytes(LARGE)
    assert burst.send([b"small", b""])
    assert burst.send([b"large", b"", large])
    assert taken(far) == [b"small", b"large"]
    sent = [burst.send([b"large", b"", large]) for _ in range(3 * ROOM)]
    assert not sent[-1]
    assert burst.flush()  # none of them is held
    assert taken(far) == [b"large"] * sent.count(True)


async def test_a_large_attachment_is_not_copied(near: Drained, far: zmq.Socket[bytes]) -> None:
    attachment = bytearray(LARGE)
    held = memoryview(attachment)
    assert Burst(near).send([b"large", b"event", held])
    held.release()
    gc.collect()
    with pytest.raises(BufferError):  # it lies where it lay, and is held there
        attachment.append(1)
    assert taken(far) == [b"large"]


async def test_a_small_attachment_is_sent_as_it_was(near: Drained, far: zmq.Socket[bytes]) -> None:
    attachment = bytearray(b"before")
    assert Burst(near).send([b"a", b"event", attachment, memoryview(attachment)[1:]])
    attachment[:] = b"after!"
    await asyncio.sleep(0)
    assert far.recv_multipart() == [b"a", b"event", b"before", b"efore"]


@pytest.mark.parametrize("part", ["text", None, 5, [b"x"]], ids=["str", "none", "int", "list"])
async def test_a_part_that_is_no_bytes_is_not_taken(
    near: Drained, far: zmq.Socket[bytes], part: Any
) -> None:
    burst = Burst(near)
    with pytest.raises(TypeError):
        burst.send([b"a", b"b", part])
    assert burst.send([b"c", b"d"])
    assert burst.flush()
    assert taken(far) == [b"c"]


async def test_closing_sends_what_waits(near: Drained, far: zmq.Socket[bytes]) -> None:
    burst = Burst(near)
    names = named(2 * ROOM + 2)
    assert all(burst.send([name, b""]) for name in names)
    closing = asyncio.create_task(burst.aclose(10))
    await asyncio.sleep(0)
    came = taken(far)
    await closing
    assert came + taken(far) == names


async def test_closing_does_not_wait_for_ever(near: Drained, far: zmq.Socket[bytes]) -> None:
    burst = Burst(near)
    assert all(burst.send([name, b""]) for name in named(2 * ROOM + 2))
    await burst.aclose(0.01)
    assert taken(far) == named(2 * ROOM)
