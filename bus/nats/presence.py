"""Who consumes as which group, as far as no state tells: those that wait for a lease.

Each of them listens to a question about its group. Where nobody does the server itself says so, and
at once: who died, or has closed its connection, listens no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.nats.connection import Connection
from bus.nats.names import Names

__all__ = ["Presence"]


class Presence:
    """That of one connection."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._asking: Counter[str] = Counter()
        """Requests for leases that are under way, by group."""
        self._listening: dict[str, Subscription | None] = {}
        """By group; None while it is being subscribed."""

    @asynccontextmanager
    async def asking(self, group: str) -> AsyncIterator[None]:
        """While the block runs, who asks about the group is told that it has a consumer."""
        self._asking[group] += 1
        try:
            if group not in self._listening:
                await self._listen(group)
            yield
        finally:
            self._asking[group] -= 1

    async def _listen(self, group: str) -> None:
        async def answer(question: Msg) -> None:
            if self._asking[group]:
                await self._connection.publish(question.reply, b"")
                return
            # Only now: most who end a request for leases make another one at once.
            former = self._listening.pop(group, None)
            if former is not None:
                await self._connection.unsubscribe(former)

        self._listening[group] = None
        try:
            found = await self._connection.subscribe(self._names.asked(group), answer)
        except BaseException:
            del self._listening[group]
            raise
        self._listening[group] = found

    async def anybody(self, group: str, end: float) -> bool:
        """Whether somebody waits for a lease as the group; one that is frozen does, too.

        Raises `Unreachable` at `end` (the loop's time), `Closed`.
        """
        subject = self._names.asked(group)
        found = await self._connection.heard(subject, end)
        if found is None:  # who waits no more listens no more once it was asked
            found = await self._connection.heard(subject, end)
        return found is not False
