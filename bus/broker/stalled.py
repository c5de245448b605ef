"""Peers that stopped reading: cut off where what waits for them costs too much memory.

ZeroMQ bounds what waits for a peer by messages, not bytes, and tells nobody who is behind. The
system does: a connection whose sending buffer is never empty has a peer that does not keep up, and
one whose buffer holds the same all the time has a peer that does not read at all. That one is found
within a second: large events fill gigabytes before the third heartbeat.
"""

from __future__ import annotations

import fcntl
import logging
import struct
import termios

from bus.connected import Connected, Connection

__all__ = ["Stalled"]

LOOKS = 3
"""Looks in a row at which a connection had unsent bytes, after which it may be cut off."""
STILL = 2
"""Glances in a row that found a connection's unsent bytes as they had been."""
_log = logging.getLogger(__name__)


class Stalled:
    """The `peers` of a socket that are behind: `look` now and then, `glance` if memory is short."""

    def __init__(self, connected: Connected, peers: str) -> None:
        self._connected = connected
        self._peers = peers
        self._behind: dict[Connection, int] = {}
        """Looks in a row at which a connection had unsent bytes."""
        self._still: dict[Connection, tuple[int, int]] = {}
        """Its unsent bytes at the last glance, and at how many before it they were as many."""
        self.cut = 0
        """How many were cut off."""

    def look(self, *, costly: bool) -> None:
        """Count who is behind; cut off who always was, if that is `costly`."""
        before, self._behind = self._behind, {}
        late = []
        for connection in self._connected.open.values():
            if _unsent(connection.descriptor):
                self._behind[connection] = looks = before.get(connection, 0) + 1
                if costly and looks >= LOOKS:
                    late.append(connection)
        self._cut(late)

    def glance(self) -> None:
        """Cut off who does not read at all."""
        before, self._still = self._still, {}
        deaf = []
        for connection in self._connected.open.values():
            unsent = _unsent(connection.descriptor)
            if not unsent:
                continue
            then, looks = before.get(connection, (0, 0))
            looks = looks + 1 if then == unsent else 0
            if looks >= STILL:
                deaf.append(connection)
            else:
                self._still[connection] = (unsent, looks)
        self._cut(deaf)

    def forget(self) -> None:
        """Memory is short no more: glances begin anew."""
        self._still.clear()

    def _cut(self, connections: list[Connection]) -> None:
        cut = sum(connection.end() for connection in connections)
        for connection in connections:
            self._behind.pop(connection, None)
        self.cut += cut
        if cut:
            _log.error("cut off %d %s that do not read: memory is short", cut, self._peers)


def _unsent(descriptor: int) -> int:
    """Bytes that the system has yet to hand over; 0 where it does not tell."""
    try:
        found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int(struct.unpack("i", found)[0])
