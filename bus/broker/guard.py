"""The broker's memory, guarded: who makes it short is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bus.broker.stalled import Stalled
from bus.broker.unended import Unended
from bus.connected import Connected
from bus.sockets import Drained

__all__ = ["Guard", "resident"]

QUICK = 0.25
"""Seconds between two looks while memory is short."""
PAUSE = 8
"""Quick looks between two times that free memory is given back: it takes a moment."""


class Guard:
    """The `sockets` of a broker, by name; `short` tells whether memory is: that is asked often.

    `most`: bytes of a message beyond which its sender is cut off whether memory is short or not.
    """

    def __init__(
        self,
        sockets: Mapping[str, tuple[Drained, Connected]],
        most: int,
        short: Callable[[], bool],
    ) -> None:
        self._short = short
        self.subscribers = Stalled(sockets["egress"][1], "subscribers")
        self._askers = Stalled(sockets["journal"][1], "askers of the journal")
        self._unended = Unended(sockets.values(), most)
        self._looks = 0
        self._timer = asyncio.get_running_loop().call_later(QUICK, self._quick)

    @property
    def cut(self) -> int:
        """How many connections were cut off that are no subscriber's."""
        return self._askers.cut + self._unended.cut

    def look(self) -> None:
        """Every few seconds, whether memory is short or not."""
        short = self._short()
        for stalled in (self.subscribers, self._askers):
            stalled.look(costly=short)
        self._unended.look(short=short)

    def _quick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(QUICK, self._quick)
        if not self._short():
            self.subscribers.forget()
            self._askers.forget()
            return
        self.subscribers.glance()
        self._askers.glance()
        self._unended.look(short=True)
        self._looks += 1
        if self._looks % PAUSE == 0:
            # What was freed stays ours until it is given back: memory would be short for ever.
            _give_back()

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()


def resident() -> int:
    """Bytes of memory this process holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def _give_back() -> None:
    """Have glibc give free memory back to the system; nothing where there is no glibc."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
