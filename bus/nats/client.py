"""The client library's client, on a socket that can be closed, and without what would end it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

__all__ = ["PAUSE", "LastingClient"]

PAUSE = 0.05
"""Seconds between two attempts to reach a server, or one whose JetStream is not ready."""
_log = logging.getLogger(__name__)


class Transport(TcpTransport):
    """A socket that is closed though a server which is frozen takes nothing more of it."""

    def __bool__(self) -> bool:
        return True  # the library would put one of its own in the place of one without a socket

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(1):
                await super().wait_closed()  # type: ignore[no-untyped-call]
        except TimeoutError:
            self.abandon()

    def abandon(self) -> None:
        """Close it with what it has not sent."""
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                writer.transport.abort()


class LastingClient(Client):
    """The library's, on that socket."""

    def __init__(self) -> None:
        super().__init__()
        self._transport: Transport | None = Transport()  # type: ignore[no-untyped-call]
        self._abandoned = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # The library would go on in plain text, and tell whoever that is its password.
        if initial_connection and self.options.get("tls") and not info.get("tls_required"):
            raise nats.errors.SecureConnRequiredError
        await super()._process_info(info, initial_connection)

    async def _process_pong(self) -> None:
        # One that nobody waits for any more would end the library's reading, of a connection that
        # counts as live until three pings later.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _attempt_reconnect(self) -> None:
        while not self.is_closed:
            try:
                return await super()._attempt_reconnect()
            except Exception as e:  # of a kind that the library does not expect: it would give up
                self._status = Client.RECONNECTING
                _log.info("the NATS client failed to reconnect, trying again: %r", e)
                await asyncio.sleep(PAUSE)

    async def _select_next_server(self) -> None:
        # A cancellation that came in the same turn as an answer is lost (`asyncio.wait_for` of
        # Python 3.11), and the library's loop would try for good.
        if self._abandoned:
            raise asyncio.CancelledError
        await super()._select_next_server()

    def abandon(self) -> set[asyncio.Task[Any]]:
        """Stop whatever of the library still runs, and close the socket as it is; what ends now."""
        self._abandoned = True
        tasks: list[asyncio.Task[Any] | None] = [
            self._reconnection_task,
            self._reading_task,
            self._ping_interval_task,
            self._flusher_task,
            *(sub._wait_for_msgs_task for sub in self._subs.values()),
        ]
        running = {task for task in tasks if task is not None and not task.done()}
        for task in running:
            task.cancel()
        if self._transport is not None:
            self._transport.abandon()
        return running
