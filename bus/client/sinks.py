"""What a bus listens to for its own sake: answers, refusals, the broker's heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bus.broker.core import SOURCE as BROKER
from bus.errors import Closed
from bus.link import Link
from schemas import Event

if TYPE_CHECKING:
    from bus.client.subscription import Watch

__all__ = ["Heartbeats", "Refusals", "Replies", "Sink", "Topics"]


class Sink(Protocol):
    """Something that takes the events of a topic."""

    def push(self, event: Event[Any]) -> None:
        """An event arrived."""


class Topics:
    """Which sinks take which topics; the link is subscribed to those that somebody takes."""

    def __init__(self, link: Link) -> None:
        self.sinks: dict[bytes, tuple[Sink, ...]] = {}
        """By the whole topic, as it stands in the first frame."""
        self._link = link

    def add(self, sink: Sink, topics: Sequence[str]) -> None:
        """Send these topics to a sink."""
        for topic in topics:
            name = topic.encode()
            sinks = self.sinks.get(name, ())
            if not sinks:
                self._link.subscribe(topic)
            if sink not in sinks:
                self.sinks[name] = (*sinks, sink)

    def remove(self, sink: Sink, topics: Sequence[str]) -> None:
        """Undo `add`."""
        for topic in topics:
            name = topic.encode()
            sinks = self.sinks.get(name, ())
            if sink in sinks:
                self.sinks[name] = tuple(each for each in sinks if each is not sink)
                if not self.sinks[name]:
                    del self.sinks[name]
                    self._link.unsubscribe(topic)


class Replies:
    """The answers to requests, by the id of the request."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Future[Event[Any]], tuple[str, ...]]] = {}

    def expect(self, name: str, types: tuple[str, ...]) -> asyncio.Future[Event[Any]]:
        """The answer to the request of that id, once it has come: an event of one of `types`."""
        if name in self._waiting:
            raise ValueError(f"a request with the id {name} is under way already")
        future: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[name] = (future, types)
        return future

    def forget(self, name: str, future: asyncio.Future[Event[Any]]) -> None:
        """Nobody waits for it any more."""
        if name in self._waiting and self._waiting[name][0] is future:
            del self._waiting[name]
        if future.done() and not future.cancelled():
            future.exception()  # seen

    def push(self, event: Event[Any]) -> None:
        """An answer, perhaps to one of ours."""
        # A request that itself belongs to a batch passes the batch's id on as correlation.
        for name in (event.correlation_id, event.causation_id):
            found = self._waiting.get(name) if name else None
            if found is not None and event.type in found[1] and not found[0].done():
                found[0].set_result(event)
                return

    def fail(self, name: str, error: Exception) -> bool:
        """There will be no answer; False if nobody waits for one."""
        found = self._waiting.get(name)
        if found is None or found[0].done():
            return False
        found[0].set_exception(error)
        return True

    def close(self) -> None:
        """There will be no answer to anything."""
        for name in list(self._waiting):
            self.fail(name, Closed("the bus was closed before an answer came"))


class Refusals:
    """The broker's `event.refused` for this source, handed on."""

    def __init__(self, refuse: Callable[[Event[Any]], None]) -> None:
        self._refuse = refuse

    def push(self, event: Event[Any]) -> None:
        """The broker refused an event."""
        self._refuse(event)


class Heartbeats:
    """The broker's heads, for whoever watches durable events."""

    def __init__(self, watches: set[Watch]) -> None:
        self._watches = watches

    def push(self, event: Event[Any]) -> None:
        """A heartbeat, perhaps the broker's."""
        if event.source == BROKER and event.data.heads is not None:
            for watch in self._watches:
                watch.beyond(event.data.heads)
