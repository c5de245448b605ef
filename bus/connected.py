"""Who is connected to a bound socket: by the system's descriptors, as ZeroMQ's monitor tells."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from bus.sockets import Drained

__all__ = ["Connected", "Connection", "shut"]

INFO = 136
"""Bytes of Linux's `tcp_info` as far as it is read; the last field there is what came."""


class Connection:
    """One, from its acceptance to its end."""

    def __init__(self, descriptor: int, number: int) -> None:
        self.descriptor = descriptor
        self.number = number
        """Its place among all that were accepted, or admitted, one after the other."""
        self.key = ""
        """Under which key it was admitted; known from its first message on, and over tcp alone."""
        self.spoke = False
        """Whether a message of it has come since that was last asked."""
        self.cut = False
        """Whether it was ended from here; it is open until ZeroMQ has seen that."""

    def end(self) -> bool:
        """End it; whether it was still there."""
        self.cut = True
        return shut(self.descriptor)

    def came(self) -> int:
        """Bytes that came over it; 0 where the system does not tell: over tcp Linux does."""
        if sys.platform != "linux":
            return 0
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            found = socket.socket(*kind, fileno=self.descriptor)
        except OSError:
            return 0
        try:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO)
        except OSError:
            return 0
        finally:
            found.detach()  # it is ZeroMQ's
        return int.from_bytes(info[INFO - 8 :], sys.byteorder) if len(info) == INFO else 0


class Connected:
    """The connections of a socket, watched from before it is bound; `opened` and `ended` hear.

    `numbers` of several sockets, and of what else is to be told apart by order, are the same.
    """

    def __init__(self, watched: zmq.Socket[bytes], numbers: Iterator[int] | None = None) -> None:
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
        self.open: dict[int, Connection] = {}
        """By descriptor, the oldest first."""
        self.opened: list[Callable[[Connection], None]] = []
        self.ended: list[Callable[[Connection], None]] = []
        self._numbers = numbers or count(1)
        self._watched = watched
        self._events = watched.get_monitor_socket(events)
        self._monitor = Drained(self._events, self._happened)
        self._closed = False

    def catch_up(self) -> None:
        """Know of all that has happened.

        A connection is accepted before it is admitted, and that before it says anything; its end is
        told before its descriptor is another's. But each comes over a socket of its own: who looks
        at a message or an admission has to have heard of what was before it.
        """
        while not self._closed and int(self._events.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._happened(self._events.recv_multipart())

    def _happened(self, message: list[bytes]) -> None:
        event: Any = parse_monitor_message(message)
        descriptor = int(event["value"])
        former = self.open.pop(descriptor, None)
        if former is not None:
            for hears in self.ended:
                hears(former)
        if event["event"] == zmq.EVENT_ACCEPTED:
            made = self.open[descriptor] = Connection(descriptor, next(self._numbers))
            for hears in self.opened:
                hears(made)

    def close(self) -> None:
        """Stop watching; before the socket itself is closed. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._watched.disable_monitor()
            self._monitor.close()


def shut(descriptor: int) -> bool:
    """End the connection of a descriptor; whether it was one."""
    # ZeroMQ owns the descriptor: shut down through a copy, it sees the end and cleans up.
    with contextlib.suppress(OSError):
        with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as connection:
            connection.shutdown(socket.SHUT_RDWR)
        return True
    return False
