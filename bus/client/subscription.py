"""A live view of topics, with the journal behind it where events are durable."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bus.contract import Subscription
from bus.errors import BusError, Closed
from bus.signal import Signal
from schemas import Event, Lane

if TYPE_CHECKING:
    from bus.client.client import ClientBus
    from schemas import Payload

__all__ = ["Watch"]

PAGE = 500
RETRY = 0.2
_log = logging.getLogger(__name__)


class Watch(Subscription):
    """Buffers what arrives; fetches from the journal what did not.

    Up to `_last` everything was passed on. An event tells by `previous` whether one of its own type
    is missing before it; of several types only the very next number leaves nothing open. Otherwise
    the journal is read from there until nothing is missing, and what arrives meanwhile is left to
    that reading: it is in the journal already. So the order is total, whatever was lost.
    """

    def __init__(
        self,
        bus: ClientBus,
        kinds: tuple[type[Payload], ...],
        to: str,
        after: int | None,
        buffer: int,
    ) -> None:
        self.truncated = False
        self._bus = bus
        self._topics = [f"{kind.type}@{to}" if kind.addressed else kind.type for kind in kinds]
        self._durable = [kind.type for kind in kinds if kind.lane is Lane.DURABLE]
        self._after = after
        self._buffer = max(1, buffer)
        self._live: deque[Event[Any]] = deque()
        self._kept: deque[Event[Any]] = deque()
        self._turn = False
        self._signal = Signal()
        self._room = Signal()
        self._last = after or 0
        self._wanted = 0
        """A sequence that is known to exist; beyond `_last`, it was not passed on yet."""
        self._repair: asyncio.Task[None] | None = None
        self._starting = True
        self._open = False

    @property
    def durable(self) -> bool:
        """Whether it watches events that the journal keeps."""
        return bool(self._durable)

    async def __aenter__(self) -> Self:
        if self._open:
            raise Closed("this subscription was entered before: make a new one")
        self._open = True
        self._bus.add(self, self._topics)
        try:
            await self._bus.confirm(self._topics)
            if self._durable:
                head = self._head(await self._bus.heads())
                if self._after is None:
                    self._last = head
                else:
                    self._want(head)
                    # Even without a head beyond it: it tells whether something is gone.
                    _, self.truncated = await self._bus.read_page(self._durable, self._after, 1)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self._starting = False
        held, self._kept = self._kept, deque()
        for event in held:
            self.push(event)
        self._mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bus.remove(self, self._topics)
        self.end()
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.gather(self._repair, return_exceptions=True)
        self._live.clear()
        self._kept.clear()

    def end(self) -> None:
        """Nothing more will come: what is buffered may still be read."""
        self._open = False
        if self._repair is not None:
            self._repair.cancel()
        self._signal.close()

    def push(self, event: Event[Any]) -> None:
        """An event arrived."""
        if event.data.lane is Lane.LIVE or event.sequence is None:
            if len(self._live) >= self._buffer:
                self._live.popleft()
                self._bus.dropped += 1
            self._live.append(event)
            self._signal.set()
        elif self._starting:
            if len(self._kept) >= self._buffer:  # the journal has it
                oldest = self._kept.popleft()
                self._want(oldest.sequence or 0)
            self._kept.append(event)
        else:
            self._push_durable(event, event.sequence)

    def _push_durable(self, event: Event[Any], sequence: int) -> None:
        if sequence <= self._last:
            return
        missing = self._wanted > self._last or not self._follows(event, sequence)
        if missing or len(self._kept) >= self._buffer:
            self._want(sequence)
            self._mend()
            return
        self._pass(event, sequence)

    def _follows(self, event: Event[Any], sequence: int) -> bool:
        if sequence == self._last + 1 or event.previous is None:
            return True
        return len(self._durable) == 1 and event.previous <= self._last

    def _pass(self, event: Event[Any], sequence: int) -> None:
        self._last = sequence
        self._kept.append(event)
        self._signal.set()

    def _head(self, heads: Mapping[str, int]) -> int:
        return max((heads.get(kind, 0) for kind in self._durable), default=0)

    def beyond(self, heads: Mapping[str, int]) -> None:
        """The broker's heads: one beyond the last passed on means that something was lost."""
        if not self._starting:
            self._want(self._head(heads))
            self._mend()

    def _want(self, sequence: int) -> None:
        self._wanted = max(sequence, self._wanted)

    def _mend(self) -> None:
        missing = self._wanted > self._last
        if missing and (self._repair is None or self._repair.done()) and self._open:
            self._repair = asyncio.create_task(self._read_missing(), name="bus repair")

    async def _read_missing(self) -> None:
        while self._wanted > self._last:
            while len(self._kept) >= self._buffer:
                await self._room.wait()
            try:
                page, truncated = await self._bus.read_page(self._durable, self._last, PAGE)
            except Closed:
                return
            except BusError as e:
                _log.warning("cannot read the journal, trying again: %s", e)
                await asyncio.sleep(RETRY)
                continue
            self.truncated = self.truncated or truncated
            for sequence, _, event in page:
                if event is not None:
                    self._pass(event, sequence)
                    self._bus.dropped += self._after is None
            # An empty page: what is wanted was removed.
            self._last = max(self._last, page[-1][0] if page else self._wanted)

    async def get(self, timeout: float | None = None) -> Event[Any]:
        while not (self._live or self._kept):
            if not self._open:
                raise Closed("the subscription is closed")
            await self._signal.wait(timeout)
        # In turn, so that neither a flood nor a long catching up starves the other lane.
        self._turn = not self._turn
        if self._kept and (self._turn or not self._live):
            self._room.set()
            return self._kept.popleft()
        return self._live.popleft()

    async def __aiter__(self) -> AsyncIterator[Event[Any]]:
        while True:
            try:
                event = await self.get()
            except Closed:
                return
            yield event
