"""Virtual time: machines whose cores are shared by threads that each do one thing after another."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable

__all__ = ["Clock", "Machine", "Thread"]

Then = Callable[[], None]


class Clock:
    """What is to happen, in order of its time; of equals what was said first. No sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds."""
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Then]] = []

    def after(self, seconds: float, then: Then) -> None:
        """Do it so much later."""
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), then))

    def run(self, until: Callable[[], bool]) -> None:
        """Until that holds, or nothing is left to happen."""
        while self._waiting and not until():
            self.now, _, then = heapq.heappop(self._waiting)
            then()


class Machine:
    """So many cores of one speed.

    A thread gets a core, or where more of them work than there are cores, all get an equal share.
    `together` is the speed of a core while another one works too, as a share of its speed alone:
    they share memory, and often the core itself.
    """

    def __init__(self, clock: Clock, cores: float, together: float = 1.0) -> None:
        self.clock = clock
        self._cores = cores
        self._together = together
        self._work = 0.0  # seconds at full speed that each busy thread has had so far
        self._at = 0.0
        self._ends: list[tuple[float, int, Thread]] = []
        self._order = itertools.count()
        self._turn = 0

    def begin(self, thread: Thread, seconds: float) -> None:
        """A thread has so much to compute."""
        self._catch_up()
        heapq.heappush(self._ends, (self._work + seconds, next(self._order), thread))
        self._plan()

    def _speed(self) -> float:
        busy = len(self._ends)
        if not busy:
            return 0.0
        share = min(1.0, self._cores / busy)
        return share * (self._together if min(busy, self._cores) > 1 else 1.0)

    def _catch_up(self) -> None:
        self._work += (self.clock.now - self._at) * self._speed()
        self._at = self.clock.now

    def _plan(self) -> None:
        self._turn += 1
        if not self._ends:
            return
        turn, left = self._turn, max(self._ends[0][0] - self._work, 0.0)

        def ended() -> None:
            if turn == self._turn:  # nothing has changed meanwhile
                self._catch_up()
                self._work = max(self._work, self._ends[0][0])
                _, _, thread = heapq.heappop(self._ends)
                self._plan()
                thread.end()

        self.clock.after(left / self._speed(), ended)


class Thread:
    """Does what it is given, one thing after another, in order."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: deque[tuple[float, Then]] = deque()
        self._then: Then | None = None
        self._since = 0.0
        self._busy = 0.0

    @property
    def busy(self) -> float:
        """Seconds so far in which it had something to do."""
        return self._busy + (self._machine.clock.now - self._since if self._then else 0.0)

    def give(self, seconds: float, then: Then) -> None:
        """Compute for so long, then do that."""
        self._waiting.append((seconds, then))
        if self._then is None:
            self._next()

    def end(self) -> None:
        """Its machine is done with what it had."""
        then, self._then = self._then, None
        self._busy += self._machine.clock.now - self._since
        if self._waiting:
            self._next()
        if then is not None:
            then()

    def _next(self) -> None:
        seconds, self._then = self._waiting.popleft()
        self._since = self._machine.clock.now
        self._machine.begin(self, seconds)
