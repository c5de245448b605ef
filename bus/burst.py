"""What is sent in one turn of the loop leaves at its end, in one go.

Whoever hears it wakes once for all of it, and not once for each message: where small messages come
thick, that is a sixth of what a broker spends on them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

from bus.sockets import LARGE, Drained

__all__ = ["Burst"]

MOST = 32
"""Messages that wait for the end of a turn; more of them leave before, or the first of many answers
would wait until the last one is made."""
SOON, LATEST = 0.001, 0.25
"""Seconds, at first and at most, between attempts to send on where the queue is full."""


class Burst:
    """Sends through a socket in bursts, in order.

    A message that was taken is never dropped here. Where the socket's queue is full, what was taken
    in that turn waits, and nothing else is taken meanwhile: that is at most `MOST` messages, and
    none of them large.
    """

    def __init__(self, socket: Drained) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence[bytes]] = deque()
        self._due: asyncio.Handle | None = None
        self._full = False
        self._pause = SOON

    def send(self, message: Sequence[bytes]) -> bool:
        """Take a message without waiting; False if the queue is full.

        Raises `TypeError` for a part that is no bytes; nothing is taken then.
        """
        if len(message) > 2:
            message = [*message[:2], *map(_kept, message[2:])]
        large = sum(map(len, message)) >= LARGE
        if self._full or large or len(self._waiting) >= MOST:
            if not self.flush():
                return False
            if large:  # it would be held for a turn, and costs more than a wake
                return self._socket.send(message)
        self._waiting.append(message)
        if self._due is None:
            self._due = self._loop.call_soon(self.flush)
        return True

    def flush(self) -> bool:
        """Send what waits; False if not all of it found room: then it is tried again, and again."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        waiting = self._waiting
        while waiting and self._socket.send(waiting[0]):
            waiting.popleft()
            self._pause = SOON
        self._full = bool(waiting)
        if self._full:
            self._due = self._loop.call_later(self._pause, self._again)
        return not self._full

    def _again(self) -> None:
        self._pause = min(2 * self._pause, LATEST)
        self.flush()

    async def aclose(self, patience: float) -> None:
        """Send what waits, for up to `patience` seconds where the queue is full."""
        end = self._loop.time() + patience
        while not self.flush() and self._loop.time() < end:  # noqa: ASYNC110 (room is told nobody)
            await asyncio.sleep(SOON)
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._waiting.clear()


def _kept(part: Any) -> Any:
    """As it is now: what is no bytes may be changed before the turn is over."""
    if isinstance(part, bytes | zmq.Frame):
        return part
    view = memoryview(part)
    return view.cast("B") if view.nbytes >= LARGE else bytes(view)
