"""A plain ZeroMQ socket in an asyncio loop: watched by its descriptor, drained without waiting.

The descriptor is edge-triggered: it tells once that something happened, and any call on the
socket may swallow that. So every send and every option set is followed by another look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import zmq

__all__ = ["Drained"]

BUDGET = 256
"""Messages handled in one go, before others in the loop have their turn."""

_log = logging.getLogger(__name__)


class Drained:
    """Calls `handle` with every message; never waits, never leaves one behind."""

    def __init__(self, socket: zmq.Socket[bytes], handle: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._paused = False
        self._closed = False
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

    def _drain(self) -> None:
        if self._stopped():
            return
        receive, handle = self.socket.recv_multipart, self._handle
        for _ in range(BUDGET):
            try:
                message = receive(zmq.DONTWAIT)
            except zmq.Again:
                return
            except zmq.ZMQError as e:
                _log.warning("a message could not be received: %s", e)
                break
            try:
                handle(message)
            except Exception:
                _log.exception("handling a message failed")
            if self._stopped():
                return
        self.look()

    def _stopped(self) -> bool:
        return self._closed or self._paused

    def send(self, message: Sequence[bytes]) -> bool:
        """Send without waiting; False if the queue is full or the recipient gone."""
        if self._closed:
            return False
        try:
            self.socket.send_multipart(message, zmq.DONTWAIT, copy=True)
        except zmq.ZMQError as e:
            if e.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                _log.warning("a message could not be sent: %s", e)
            return False
        finally:
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
