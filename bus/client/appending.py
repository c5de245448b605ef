"""Durable publications: what is published in one turn of the loop travels in one request.

The journal takes a request all or none, and each publication is promised just that for itself. So a
bundle that is refused changed nothing, and its publications are sent again one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from bus import protocol
from bus.errors import Closed, Overloaded, Refused
from bus.link import Link

__all__ = ["Appender"]

EVENTS, BYTES = 256, 2**19
"""A bundle of several publications has at most as many events and bytes: less than the smallest
message that a broker may be told to take."""


class _Publication(NamedTuple):
    events: Sequence[bytes]
    sequences: asyncio.Future[Sequence[int]]


class Appender:
    """Appends through a link; an answer is waited for as long as `patience` says then (seconds)."""

    def __init__(self, link: Link, patience: Callable[[], float]) -> None:
        self._link = link
        self._patience = patience
        self._bundle: list[_Publication] = []
        self._events = self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, events: Sequence[bytes]) -> Sequence[int]:
        """A sequence per event once they are on the disk, all or none.

        Raises `Refused` and its kinds, `Unreachable`, `Closed`.
        """
        loop = asyncio.get_running_loop()
        publication = _Publication(events, loop.create_future())
        size = sum(map(len, events))
        if self._events + len(events) > EVENTS or self._bytes + size > BYTES:
            self._send()
        if not self._bundle:
            loop.call_soon(self._send)
        self._bundle.append(publication)
        self._events += len(events)
        self._bytes += size
        return await publication.sequences

    def _send(self) -> None:
        bundle, self._bundle = self._bundle, []
        self._events = self._bytes = 0
        bundle = [publication for publication in bundle if not publication.sequences.done()]
        if not bundle:
            return
        end = asyncio.get_running_loop().time() + self._patience()
        task = asyncio.create_task(self._carry(bundle, end), name="bus append")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def given_up(_: object) -> None:
            if all(publication.sequences.cancelled() for publication in bundle):
                task.cancel()

        for publication in bundle:
            publication.sequences.add_done_callback(given_up)

    async def _carry(self, bundle: Sequence[_Publication], end: float) -> None:
        try:
            sequences = await self._ask(bundle, end)
        except Refused as e:
            if len(bundle) == 1 or isinstance(e, Overloaded):
                _fail(bundle, e)
            else:  # one of them is to blame, and only that one is to suffer
                await asyncio.gather(*(self._carry([publication], end) for publication in bundle))
        except asyncio.CancelledError:
            _fail(bundle, Closed("the bus was closed"))
            raise
        except Exception as e:
            _fail(bundle, e)
        else:
            start = 0
            for events, waiting in bundle:
                if not waiting.done():
                    waiting.set_result(sequences[start : start + len(events)])
                start += len(events)

    async def _ask(self, bundle: Sequence[_Publication], end: float) -> Sequence[int]:
        events = [msgspec.Raw(raw) for publication in bundle for raw in publication.events]
        body = protocol.encode(protocol.Append(events=events))
        left = max(end - asyncio.get_running_loop().time(), 0.0)
        answer = await self._link.call("append", body, left)
        return msgspec.json.decode(answer, type=protocol.Appended).sequences


def _fail(bundle: Sequence[_Publication], error: Exception) -> None:
    for publication in bundle:
        if not publication.sequences.done():
            publication.sequences.set_exception(error)
