"""One connection: what uvicorn would wait for without end has an end here.

Whoever opens a connection and says nothing, sends a header byte by byte, or takes nothing of its
answer would hold a file and a buffer for ever, and keep the process from ending in time.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["Connection"]

HEAD: Final = 30.0
"""Seconds within which a request's last header must have come, and what is left of the body of one
that was answered already."""

STALLED: Final = 30.0
"""Seconds for which a caller may take nothing of its answer ..."""

LEAVING: Final = 2.0
"""... and the same where the process is about to end."""

MOST: Final = 512
"""Connections at a time; beyond it the one that has asked nothing for longest gives way."""


class Connection(H11Protocol):
    """uvicorn's, with patience of a bounded length."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _leaving = False
    since = 0.0
    """When it began to be without a request; the loop's seconds."""

    @property
    def idle(self) -> bool:
        """Whether no request of it is at work."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for ever."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST:
            others = [one for one in self.connections if isinstance(one, Connection) and one.idle]
            min(others, key=lambda one: one.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look after it no more."""
        self._awaited()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Part of a request."""
        super().data_received(data)
        if not self.idle:
            self._awaited()
        elif self._head is None and not self.transport.is_closing():
            self._await_head()

    def on_response_complete(self) -> None:
        """The next request may come, once the answer is taken."""
        self.since = self.loop.time()
        self._watch()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The caller takes its answer more slowly than it is made."""
        super().pause_writing()
        self._watch()

    def shutdown(self) -> None:
        """End now, or after the request at work."""
        self._leaving = True
        self._watch()
        super().shutdown()

    def _await_head(self) -> None:
        self.since = self.loop.time()
        self._head = self.loop.call_later(HEAD, self._give_up)

    def _awaited(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        self._head = None
        if self.idle:
            self.transport.abort()

    def _watch(self) -> None:
        """Abort where the caller takes nothing for too long; what it takes slowly it may have."""
        self._taken()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            seconds = LEAVING if self._leaving else STALLED
            self._stall = self.loop.call_later(seconds, self._look, waiting)

    def _taken(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _look(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._watch()
        else:
            self.transport.abort()
