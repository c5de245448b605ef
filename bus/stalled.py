"""Subscribers that stopped reading: cut off where what waits for them costs too much memory.

ZeroMQ bounds a subscriber's queue by messages, not bytes, and tells nobody who is behind. The
system does: a connection whose sending buffer is never empty has a peer that does not keep up.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import termios
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from bus.sockets import Drained

__all__ = ["Stalled"]

LOOKS = 3
"""Looks in a row at which a connection had unsent bytes, after which it may be cut off."""
_log = logging.getLogger(__name__)


class Stalled:
    """The connections of a bound socket; `look` now and then."""

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
        self._watched = watched
        self._behind: dict[int, int] = {}
        """Looks in a row at which a descriptor had unsent bytes."""
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
        if cut:
            _log.error("cut off %d subscribers that do not read: memory is short", cut)
        return cut

    def close(self) -> None:
        """Stop watching; before the socket itself is closed."""
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
