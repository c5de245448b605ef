"""Messages that never end: whoever sends one is cut off before it fills the memory.

libzmq hands a message over when its last part has come, and holds the others until then: neither
its bound of a part's bytes nor that of waiting messages counts them, and nothing tells of them. The
system does, over tcp: how many bytes a connection has brought. What it brought since it last ended
a message is held. Over ipc nobody counts that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import NamedTuple

import zmq

from bus.connected import Connected, Connection
from bus.sockets import LARGE, Drained

__all__ = ["Unended"]

MUCH = 16 * 2**20
"""Bytes of an unended message that are too many where memory is short."""
LATE = 2.0
"""Seconds within which even a large message ends, where memory is short."""
WAIT = 10.0
"""Seconds after which what waited to be taken was taken, however much comes."""
ALIVE = 64
"""Bytes a second that may be the connection's signs of life."""
_log = logging.getLogger(__name__)


class _Held(NamedTuple):
    """What is known of a connection since it last ended a message."""

    came: float
    """Bytes that it had brought by then."""
    since: float | None
    """When something large was first seen to be held, on the loop's clock."""


class Unended:
    """The connections of `sockets`: `look` now and then, more often while memory is short.

    A message is whole with `most` bytes: what holds more is cut off even where there is room.
    """

    def __init__(self, sockets: Iterable[tuple[Drained, Connected]], most: int) -> None:
        self._sockets = list(sockets)
        self._most = most
        self._held: dict[Connection, _Held] = {}
        self._looked = asyncio.get_running_loop().time()
        self.cut = 0
        """How many were cut off."""

    def look(self, *, short: bool) -> None:
        """Cut off who holds too much; it is less where memory is `short`."""
        now = asyncio.get_running_loop().time()
        passed, self._looked = now - self._looked, now
        before, self._held = self._held, {}
        for drained, connected in self._sockets:
            connected.catch_up()
            # What waits to be taken may be the end of a message: of nobody is it known now.
            waits = bool(int(drained.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
            drained.look()
            for connection in connected.open.values():
                came = connection.came()
                then = before.get(connection, _Held(0.0, None))
                if connection.spoke:
                    connection.spoke = False
                    then = _Held(came, None)
                base = min(then.came + ALIVE * passed, came)
                held = came - base
                since = then.since
                if held < LARGE:
                    since = None
                elif since is None:
                    since = now
                self._held[connection] = _Held(base, since)
                late = since is not None and now - since >= LATE
                if waits and (since is None or now - since < WAIT):
                    continue
                if held > self._most or (short and late and held > MUCH):
                    self._cut(connection, held)

    def _cut(self, connection: Connection, held: float) -> None:
        if connection.end():
            self.cut += 1
            _log.error(
                "cut off a connection of %s: it sent %d bytes of a message without an end",
                repr(connection.key) if connection.key else "one that never said anything",
                held,
            )
