"""What arrives: put in the order in which it was sent, durable events with their numbers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from nats.aio.msg import Msg

from bus.nats.connection import Handler
from bus.nats.frames import ORDER, unpack
from bus.nats.names import Names
from bus.nats.server import Stored
from bus.nats.stamped import is_erased, numbered

__all__ = ["Arrivals"]

SEQUENCE = "Nats-Sequence"
"""The header that says where in the stream a republished message stands."""
_log = logging.getLogger(__name__)


class Arrivals:
    """Messages of all subscriptions, passed on in one order.

    The client library gives each subscription a queue and a task of its own, so that what one
    publisher sent to two subjects may come in another order than it arrived in. What came in one
    piece is gathered here, and sorted: live messages by the sender's numbers, durable ones by
    their sequence.

    A durable event's `previous` is the last one of its type that arrived. Where some may have been
    lost, or how far a type goes was not asked yet, its events are held until `known` is told.
    """

    def __init__(self, names: Names, emit: Callable[[Sequence[bytes]], None]) -> None:
        self._names = names
        self._emit = emit
        self._gathered: list[tuple[tuple[str, int], bytes, Msg]] = []
        self._heads: dict[str, int | None] = {}
        """The last sequence of each type that is heard; None where it has to be asked."""
        self._held: dict[str, list[Stored]] = {}

    # what is heard

    def handler(self, topic: str) -> Handler:
        """Takes the messages of a live topic."""
        name = topic.encode()

        async def arrived(message: Msg) -> None:
            sender, _, number = (message.headers or {}).get(ORDER, "").partition(" ")
            self._gather((sender, int(number) if number.isdecimal() else 0), name, message)

        return arrived

    def told_handler(self, kind: str) -> Handler:
        """Takes what the server says of a durable type's events."""
        name = kind.encode()
        self._heads.setdefault(kind, None)

        async def arrived(message: Msg) -> None:
            number = (message.headers or {}).get(SEQUENCE, "")
            if number.isdecimal():
                self._gather(("", int(number)), name, message)

        return arrived

    def forget(self, kind: str) -> None:
        """A durable type is not heard any more."""
        self._heads.pop(kind, None)
        self._held.pop(kind, None)

    def _gather(self, order: tuple[str, int], topic: bytes, message: Msg) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._pass_on)
        self._gathered.append((order, topic, message))

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        if len(gathered) > 1:
            gathered.sort(key=lambda each: each[0])
        for (_, number), topic, message in gathered:
            kind = topic.decode()
            if kind in self._heads:
                told = Stored(number, message.subject, message.data, message.headers or {})
                self._pass_durable(kind, told)
                continue
            try:
                parts = unpack(message.data, message.headers)
            except ValueError as e:
                _log.warning("a message of %s was passed over: %s", kind, e)
                continue
            self._emit([topic, *parts])

    # numbers

    @property
    def unknown(self) -> list[str]:
        """Durable types of which it has to be asked how far they go."""
        return [kind for kind, head in self._heads.items() if head is None]

    def lost(self, kind: str | None = None) -> None:
        """Events of a type, or of all, may have been lost."""
        for each in [kind] if kind else list(self._heads):
            if each in self._heads:
                self._heads[each] = None

    def known(self, kind: str, head: int) -> None:
        """How far a type goes in the journal; passes on what was held."""
        if kind not in self._heads:
            return
        self._heads[kind] = head
        for told in self._held.pop(kind, ()):
            self._pass_durable(kind, told)

    def _pass_durable(self, kind: str, told: Stored) -> None:
        head = self._heads[kind]
        if head is None:
            self._held.setdefault(kind, []).append(told)
            return
        if is_erased(told):
            return
        # Not beyond the head: what came before it is not known, perhaps the very one before.
        previous = head if told.sequence > head else told.sequence - 1
        self._heads[kind] = max(head, told.sequence)
        self._emit([kind.encode(), numbered(told, kind, previous)])
