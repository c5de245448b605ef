"""A plain ZeroMQ socket in an asyncio loop: watched by its descriptor, drained without waiting.

The descriptor is edge-triggered: it tells once that something happened, and any call on the
socket may swallow that. So every send and every option set is followed by another look.

Whether something is there is asked before it is taken: that costs 1 µs, and an attempt in vain,
which ends in an exception, 10. Where much comes it is taken without asking.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import zmq

__all__ = ["EASE", "PARTS", "Drained", "Known", "is_shed"]

BUDGET = 256
"""Messages handled in one go, before others in the loop have their turn."""
ASKED = 8
"""Messages of one go before each of which it is asked whether it is there."""
AT_ONCE = 2
"""Messages sent behind each of which it is looked at once; behind more of them, in the next turn of
the loop, for all together."""
LARGE = 64 * 1024
"""Bytes of a part from which on handing it over by reference costs less than copying it; and of a
message from which on it counts as pressure."""
TURN = 4 * 2**20
"""Bytes handled in one go: of large messages a few take as long as hundreds of small ones."""
EASE = 16 * 2**20
"""Bytes of large messages a second that are no pressure, and as many at once."""
PARTS = 64
"""Parts of the longest message that is taken; of a longer one, one more than that is handed over,
which tells it from all others."""
PASSED = 4_096
"""Parts beyond those that are passed over in one go, before others in the loop have their turn."""
NOW = int(zmq.DONTWAIT)
MORE = int(zmq.DONTWAIT | zmq.SNDMORE)
EVENTS, READABLE = int(zmq.EVENTS), int(zmq.POLLIN)

_log = logging.getLogger(__name__)


def is_shed(message: Sequence[bytes], *, answers: bool = False) -> bool:
    """Whether a message is dropped under pressure: a large one to everybody.

    `answers`: those to one recipient as well, which else stay: nothing could stand for them.
    """
    return (answers or b"@" not in message[0]) and sum(map(len, message)) >= LARGE


class Drained:
    """Calls `handle` with every message; never waits, never leaves one behind.

    With `attachments` a large part after the second one is a `zmq.Frame`, never copied: neither
    here nor where it is sent on. Under pressure the second one is, too.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        handle: Callable[[list[bytes]], None],
        *,
        attachments: bool = False,
    ) -> None:
        self.socket = socket
        self._handle = handle
        self._attachments = attachments
        # The calls under pyzmq's own for several parts, which take five times as long: flags as
        # enumerations, and after each part an option asked whether another follows.
        core: Any = super(zmq.Socket, socket)
        self._send_part, self._receive_part, self._option = core.send, core.recv, core.get
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._sent = 0
        self._last: Any = None
        """The last frame of the message that is handled."""
        self._level = 0.0
        self._pressed = 0.0
        self.pressure = 0.0
        """Bytes of large messages that came before this one since the queue was last empty, beyond
        those that are no pressure.

        ZeroMQ bounds a queue by messages, and a thousand large ones are a gigabyte: under pressure
        they are better dropped unread, which is faster than they can be sent.
        """
        self._paused = False
        self._closed = False
        self._surplus = False
        """Whether more follows of a message that was handed over: it has too many parts."""
        self._fd = int(socket.fileno())
        self._loop.add_reader(self._fd, self._drain)
        self.look()

    def look(self) -> None:
        """Look soon whether something is there."""
        if not (self._scheduled or self._paused or self._closed):
            self._scheduled = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._scheduled = False
        self._drain()

    def _readable(self) -> bool:
        """Whether a message is there; if not, the descriptor tells of the next one."""
        return bool(self._option(EVENTS) & READABLE)

    def _drain(self) -> None:
        receive, handle = self._receive, self._handle
        self._sent = size = 0
        for number in range(BUDGET):
            if self._closed or self._paused or size >= TURN:
                break
            if number < ASKED and not self._readable():
                self._eased()
                return
            try:
                if self._surplus and not self._pass_over():
                    break
                message = receive()
            except zmq.Again:
                self._eased()
                return
            except zmq.ZMQError as e:
                _log.warning("a message could not be received: %s", e)
                break
            if (came := sum(map(len, message))) >= LARGE:
                self._press(came)
            size += came
            try:
                handle(message)
            except Exception:
                _log.exception("handling a message failed")
        self.look()

    def _press(self, size: int) -> None:
        now = self._loop.time()
        level = max(self._level - (now - self._pressed) * EASE, 0.0)
        self.pressure = max(level - EASE, 0.0)
        self._level, self._pressed = level + size, now

    def _eased(self) -> None:
        self._level = self.pressure = 0.0

    def _receive(self) -> list[Any]:
        frame = self._receive_part(NOW, False)
        parts = [frame.bytes]
        while frame.more:
            if len(parts) > PARTS:
                self._surplus = True
                break
            frame = self._receive_part(NOW, False)
            kept = self._attachments and len(frame) >= LARGE and (len(parts) > 1 or self.pressure)
            parts.append(frame if kept else frame.bytes)
        self._last = frame
        return parts

    def _pass_over(self) -> bool:
        """Take some of the parts that are too many, unread; whether those were all."""
        for _ in range(PASSED):
            if not self._receive_part(NOW, False).more:
                self._surplus = False
                return True
        return False

    def send(self, message: Sequence[bytes]) -> bool:
        """Send without waiting; False if the queue is full or the recipient gone.

        Raises `TypeError` for a part that is no bytes; nothing is sent then.
        """
        if self._closed:
            return False
        send, last = self._send_part, len(message) - 1
        if last > 1:
            attachments: Sequence[Any] = message[2:]
            for part in attachments:  # found out in the middle, half a message would be left
                if not isinstance(part, bytes | zmq.Frame):
                    memoryview(part)
        try:
            if last == 1:  # nearly always: a topic and an event
                topic, event = message
                send(topic, MORE, True)
                send(event, NOW, len(event) < LARGE)
            else:
                for place, part in enumerate(message):
                    send(part, MORE if place < last else NOW, len(part) < LARGE)
        except zmq.ZMQError as e:  # of the first part: ZeroMQ takes a message as a whole
            if e.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                _log.warning("a message could not be sent: %s", e)
            return False
        finally:
            if not self._scheduled:
                self._sent += 1
                if self._sent > AT_ONCE or self._readable():
                    self.look()
        return True

    def pause(self) -> None:
        """Leave messages in the socket's own queue."""
        if not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Take messages again."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.add_reader(self._fd, self._drain)
            self.look()

    def close(self) -> None:
        """Close the socket; what it had not sent within its linger time is lost."""
        if not self._closed:
            self._closed = True
            if not self._paused:
                self._loop.remove_reader(self._fd)
            self.socket.close()


class Known(Drained):
    """Calls `handle` with the last frame of every message, too, which tells who sent it."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        handle: Callable[[Any, list[bytes]], None],
        *,
        attachments: bool = False,
    ) -> None:
        super().__init__(
            socket, lambda message: handle(self._last, message), attachments=attachments
        )
