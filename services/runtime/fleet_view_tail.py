"""The last events of some types, however long the journal is."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from bus import Bus
from schemas import Event, Payload

__all__ = ["tail"]

FIRST: Final = 512
"""Sequences before the head that are looked through first; then eight times as many, and so on."""

PAGE: Final = 200


async def tail(
    bus: Bus, kinds: Sequence[type[Payload]], most: int, *, head: int
) -> tuple[Event[Any], ...]:
    """The last `most` journaled events of `kinds` up to the sequence `head`, in order.

    The journal reads forwards, so a stretch is read that may hold more; never more than some
    eight times as much. Raises what `Bus.read` raises.
    """
    stretch = FIRST
    while True:
        after = max(0, head - stretch)
        found: deque[Event[Any]] = deque(maxlen=most)
        read, at = 0, after
        while True:
            page = (await bus.read(kinds, after=at, limit=PAGE)).events
            fresh = [event for event in page if (event.sequence or 0) <= head]
            found.extend(fresh)
            read += len(fresh)
            if len(fresh) < len(page) or not page:
                break
            at = page[-1].sequence or head
        if read >= most or after == 0:
            return tuple(found)
        stretch *= 8
