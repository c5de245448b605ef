"""Durable publications: what is published in one turn of the loop travels in one request.

The journal takes a request all or none, and each publication is promised just that for itself. So a
bundle that is refused changed nothing, and its publications are sent again one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec

from bus import protocol
from bus.errors import BusError, Closed, Refused
from bus.link import Link

__all__ = ["Appender"]

EVENTS, BYTES = 256, 2**20
"""A bundle is sent when it has as many events or bytes."""


class _Publication(NamedTuple):
    events: Sequence[bytes]
    sequences: asyncio.Future[Sequence[int]]


class Appender:
    """Appends through a link; `background` starts a task that belongs to the bus."""

    def __init__(
        self,
        link: Link,
        patience: float,
        background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._link = link
        self._patience = patience
        self._background = background
        self._bundle: list[_Publication] = []
        self._events = self._bytes = 0

    async def append(self, events: Sequence[bytes]) -> Sequence[int]:
        """A sequence per event once they are on the disk, all or none.

        Raises `Refused` and its kinds, `Unreachable`, `Closed`.
        """
        loop = asyncio.get_running_loop()
        publication = _Publication(events, loop.create_future())
        if not self._bundle:
            loop.call_soon(self._send)
        self._bundle.append(publication)
        self._events += len(events)
        self._bytes += sum(map(len, events))
        if self._events >= EVENTS or self._bytes >= BYTES:
            self._send()
        return await publication.sequences

    def _send(self) -> None:
        bundle, self._bundle = self._bundle, []
        self._events = self._bytes = 0
        if bundle:
            self._background(self._carry(bundle))

    async def _carry(self, bundle: Sequence[_Publication]) -> None:
        events = [msgspec.Raw(raw) for publication in bundle for raw in publication.events]
        body = protocol.encode(protocol.Append(events=events))
        try:
            answer = await self._link.call("append", body, self._patience)
            sequences = msgspec.json.decode(answer, type=protocol.Appended).sequences
        except Refused as e:
            if len(bundle) == 1:
                _fail(bundle, e)
                return
        except BusError as e:
            _fail(bundle, e)
            return
        except BaseException:
            _fail(bundle, Closed("the bus was closed"))
            raise
        else:
            start = 0
            for events_, waiting in bundle:
                if not waiting.done():
                    waiting.set_result(sequences[start : start + len(events_)])
                start += len(events_)
            return
        for publication in bundle:  # one of them is to blame, and only that one is to suffer
            await self._carry([publication])


def _fail(bundle: Sequence[_Publication], error: BusError) -> None:
    for publication in bundle:
        if not publication.sequences.done():
            publication.sequences.set_exception(error)
