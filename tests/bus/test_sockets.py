"""A watched socket: nothing is left behind, and what is large is not copied."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from bus.sockets import BUDGET, EASE, LARGE, PARTS, PASSED, Drained, is_shed
from tests.bus.kit import eventually

Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    context = zmq.Context()
    one, two = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind("inproc://pair")
    two.connect("inproc://pair")
    yield one, two
    context.destroy(linger=0)


async def test_a_large_attachment_stays_where_it_was_received(pair: Pair) -> None:
    came: list[list[Any]] = []
    receiver, plain = Drained(pair[0], came.append, attachments=True), pair[1]
    large, small = bytes(LARGE), bytes(LARGE - 1)
    plain.send_multipart([large, large, large, small, b""])
    await eventually(lambda: len(came) == 1)
    assert [type(part) for part in came[0]] == [bytes, bytes, zmq.Frame, bytes, bytes]
    # Sent on it is the same again, and so is what was never a frame.
    assert receiver.send(came[0])
    assert plain.recv_multipart() == [large, large, large, small, b""]
    receiver.close()


async def test_without_attachments_every_part_is_bytes(pair: Pair) -> None:
    came: list[list[Any]] = []
    receiver = Drained(pair[0], came.append)
    pair[1].send_multipart([b"a", b"b", bytes(LARGE)])
    await eventually(lambda: len(came) == 1)
    assert came == [[b"a", b"b", bytes(LARGE)]]
    receiver.close()


async def test_more_than_one_turn_takes_is_taken_in_the_next(pair: Pair) -> None:
    came: list[list[Any]] = []
    receiver = Drained(pair[0], came.append)
    for n in range(3 * BUDGET + 1):
        pair[1].send_multipart([b"%d" % n])
    await eventually(lambda: len(came) == 3 * BUDGET + 1)
    assert came == [[b"%d" % n] for n in range(3 * BUDGET + 1)]
    receiver.close()


@pytest.mark.parametrize(
    ("parts", "handed"),
    [(PARTS, PARTS), (PARTS + 1, PARTS + 1), (PARTS + 2, PARTS + 1), (3 * PASSED, PARTS + 1)],
    ids=["the most", "one more", "two more", "many more"],
)
async def test_of_a_message_of_too_many_parts_a_bounded_number_is_handed_over(
    pair: Pair, parts: int, handed: int
) -> None:
    came: list[list[Any]] = []
    receiver = Drained(pair[0], came.append)
    pair[1].send_multipart([b"x"] * parts)
    pair[1].send_multipart([b"next"])
    await eventually(lambda: len(came) == 2)
    assert came == [[b"x"] * handed, [b"next"]]
    receiver.close()


async def test_others_have_their_turn_while_a_message_of_very_many_parts_is_passed_over(
    pair: Pair,
) -> None:
    came: list[list[Any]] = []
    turns: list[int] = []

    def turn() -> None:
        if len(came) < 2:
            turns.append(len(came))
            asyncio.get_running_loop().call_soon(turn)

    pair[1].send_multipart([b"x"] * (20 * PASSED))
    pair[1].send_multipart([b"next"])
    receiver = Drained(pair[0], came.append)
    turn()
    await eventually(lambda: len(came) == 2)
    assert turns.count(1) >= 18
    receiver.close()


async def test_a_paused_socket_keeps_its_messages_and_a_closed_one_sends_nothing(
    pair: Pair,
) -> None:
    came: list[list[Any]] = []

    def first(message: list[Any]) -> None:
        came.append(message)
        receiver.pause()

    receiver = Drained(pair[0], first)
    for n in range(3):
        pair[1].send_multipart([b"%d" % n])
    await eventually(lambda: len(came) == 1)
    receiver.resume()
    await eventually(lambda: len(came) == 2)
    receiver.close()
    assert not receiver.send([b"x"])
    assert came == [[b"0"], [b"1"]]


@pytest.mark.parametrize("part", ["text", None, 5, [b"x"]], ids=["str", "none", "int", "list"])
async def test_a_part_that_is_no_bytes_leaves_nothing_of_its_message_behind(
    pair: Pair, part: Any
) -> None:
    sender = Drained(pair[0], lambda _: None)
    with pytest.raises(TypeError):
        sender.send([b"a", b"b", part])
    assert sender.send([b"c", b"d"])
    assert pair[1].recv_multipart() == [b"c", b"d"]
    sender.close()


async def test_more_large_messages_than_can_be_taken_are_pressure(pair: Pair) -> None:
    size = 2**20
    pressure: list[float] = []
    receiver = Drained(pair[0], lambda message: pressure.append(receiver.pressure))
    for _ in range(3 * EASE // size):
        pair[1].send_multipart([b"t", bytes(size)])
    await eventually(lambda: len(pressure) == 3 * EASE // size)
    assert not any(pressure[: EASE // size])
    assert pressure[-1] > 0
    await eventually(lambda: not receiver.pressure)  # nothing is left
    receiver.close()


@pytest.mark.parametrize(
    ("topic", "size", "answers", "shed"),
    [
        (b"encode.requested", LARGE, False, True),
        (b"encode.requested", 1, True, False),
        (b"encode.completed@a-1", LARGE, False, False),
        (b"encode.completed@a-1", LARGE, True, True),
    ],
    ids=["large", "small", "answer", "answer under much pressure"],
)
def test_what_is_shed(topic: bytes, size: int, answers: bool, shed: bool) -> None:
    assert is_shed([topic, bytes(size)], answers=answers) is shed
