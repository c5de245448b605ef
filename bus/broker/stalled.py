"""Subscribers that stopped reading: cut off where what waits for them costs too much memory.

ZeroMQ bounds a subscriber's queue by messages, not bytes, and tells nobody who is behind. The
system does: a connection whose sending buffer is never empty has a peer that does not keep up, and
one whose buffer holds the same all the time has a peer that does not read at all. That one is found
within a second: large events fill gigabytes before the third heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from bus.sockets import Drained

__all__ = ["Stalled"]

LOOKS = 3
"""Looks in a row at which a connection had unsent bytes, after which it may be cut off."""
QUICK = 0.25
"""Seconds between two quick looks, for those who do not read at all."""
STILL = 2
"""Quick looks in a row that found a connection's unsent bytes as they had been."""
PAUSE = 8
"""Quick looks between two times that free memory is given back: it takes a moment."""
_log = logging.getLogger(__name__)


class Stalled:
    """The connections of a bound socket; `look` now and then.

    `short` tells whether memory is: that is asked all the time.
    """

    def __init__(
        self, watched: zmq.Socket[bytes], short: Callable[[], bool] = lambda: False
    ) -> None:
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
        self._watched = watched
        self._behind: dict[int, int] = {}
        """Looks in a row at which a descriptor had unsent bytes."""
        self._still: dict[int, tuple[int, int]] = {}
        """Its unsent bytes at the last quick look, and at how many before it they were as many."""
        self._short = short
        self._looks = 0
        self.cut = 0
        """How many were cut off."""
        self._timer = asyncio.get_running_loop().call_later(QUICK, self._quick)
        self._monitor = Drained(watched.get_monitor_socket(events), self._happened)

    def _happened(self, message: list[bytes]) -> None:
        event: Any = parse_monitor_message(message)
        if event["event"] == zmq.EVENT_ACCEPTED:
            self._behind[int(event["value"])] = 0
        else:
            self._behind.pop(int(event["value"]), None)

    @property
    def connections(self) -> int:
        """How many are connected."""
        return len(self._behind)

    def look(self, *, costly: bool) -> int:
        """Count who is behind; cut off who always was, if that is `costly`. How many it were."""
        cut = 0
        for descriptor in list(self._behind):
            unsent = _unsent(descriptor)
            self._behind[descriptor] = self._behind[descriptor] + 1 if unsent else 0
            if costly and self._behind[descriptor] >= LOOKS:
                cut += _cut(descriptor)
                self._behind[descriptor] = 0
        self._told(cut)
        return cut

    def _quick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(QUICK, self._quick)
        if not self._short():
            self._still.clear()
            return
        before, self._still = self._still, {}
        cut = 0
        for descriptor in list(self._behind):
            unsent = _unsent(descriptor)
            if not unsent:
                continue
            then, looks = before.get(descriptor, (0, 0))
            looks = looks + 1 if then == unsent else 0
            if looks >= STILL:
                cut += _cut(descriptor)
            else:
                self._still[descriptor] = (unsent, looks)
        self._told(cut)
        self._looks += 1
        if self._looks % PAUSE == 0:
            # What was freed stays ours until it is given back: memory would be short for ever.
            _give_back()

    def _told(self, cut: int) -> None:
        self.cut += cut
        if cut:
            _log.error("cut off %d subscribers that do not read: memory is short", cut)

    def close(self) -> None:
        """Stop watching; before the socket itself is closed."""
        self._timer.cancel()
        self._watched.disable_monitor()
        self._monitor.close()


def _unsent(descriptor: int) -> int:
    """Bytes that the system has yet to hand over; 0 where it does not tell."""
    try:
        found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int(struct.unpack("i", found)[0])


def _cut(descriptor: int) -> bool:
    # ZeroMQ owns the descriptor: shut down through a copy, it sees the end and cleans up.
    try:
        with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def _give_back() -> None:
    """Have glibc give free memory back to the system; nothing where there is no glibc."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
