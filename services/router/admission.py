"""Who is let in: no queue longer than it takes to be served soon, and none of it one client's.

    ahead = held + min(others × (1 + refused / pace), n × (held + own))

is what is served before a request, at the most, where encoders share equally between clients:
`held` tokens of its own client wait already, `others` of `n` other clients, and each of these gets
no more meanwhile than the client itself does. Where much is refused others take the place of those
who are served: then more comes before it than waits now. Divided by the pace, the tokens that the
encoders get done in a second, it is the wait. So a query is let in before a bulk that waits for
minutes, while the bulk's own client is told to come again.

Small requests that get in all the time would keep a large one out until its deadline. So it is
remembered who was told to come again: who does may wait as long as its deadline lets it, where an
equal share of the encoders gets it done by then. That takes nothing from those who share.

Several routers share requests and encoders evenly: each has its part of the pace, and of the texts
that may wait. Each remembers whom it told itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from services.router.errors import Refused
from services.router.outstanding import Outstanding

__all__ = ["Admission", "Limits"]

SOONEST: Final = 0.05
LATEST: Final = 10.0
UNKNOWN: Final = 0.5
"""Seconds after which to come again: at the least, at the most, and where nobody knows."""

FADING: Final = 5.0
"""Seconds over which it is averaged how much is refused."""

REMEMBERED: Final = 1024
"""Clients that were told to come again."""

SPREAD: Final = (math.sqrt(5) - 1) / 2
"""Steps of the golden ratio lie evenly: who was refused together does not come again together."""


class Limits(NamedTuple):
    """How much may wait."""

    texts: int
    """Of all clients."""
    seconds: float
    """A request that would wait longer is refused; of a client for which something waits already,
    half as long: the other half is kept for those who have nothing yet. Who comes again when it
    was told to may wait longer."""


class Admission:
    """Decides by the books; `pace` tells how many tokens encoders get done in a second, 0 where
    that is not known. No clock: `now` is in seconds, monotonic."""

    def __init__(
        self,
        books: Outstanding,
        limits: Limits,
        pace: Callable[[], float],
        routers: Callable[[], int] = lambda: 1,
    ) -> None:
        """`routers`: how many share the requests, this one among them."""
        self._books = books
        self._limits = limits
        self._whole = pace
        self._routers = routers
        self._refused = 0.0
        self._refused_at = 0.0
        self._place = 0.0
        self._told: OrderedDict[str, float] = OrderedDict()  # when to come again

    def _pace(self) -> float:
        return self._whole() / self._routers()

    def wait(self, source: str, tokens: int, now: float) -> float:
        """Seconds that a request of so many tokens would wait for its turn; 0 where unknown."""
        pace = self._pace()
        if pace <= 0:
            return 0.0
        books = self._books
        held = books.held(source).tokens
        clients = books.clients - (held > 0)
        others = (books.all.tokens - held) * (1 + self._refusing(now) / pace)
        return (held + min(others, clients * (held + tokens))) / pace

    def check(self, source: str, texts: int, tokens: int, left: float, now: float) -> None:
        """Raise `Refused` (`overloaded`) where a request is better sent again later.

        `left` are the seconds until its deadline. What comes to an idle router is always let in.
        """
        waiting = self._books.all.texts
        if not waiting:
            return
        wait = self.wait(source, tokens, now)
        held = self._books.held(source).texts
        limit = self._limits.seconds / (2 if held else 1)
        most = max(1, self._limits.texts // self._routers())
        free = most - waiting
        if texts > free:
            why = f"{waiting} texts are unanswered, {most} may be"
        elif held and held + texts > free:
            why = f"{held} texts of this client are unanswered, there is room for {free}"
        elif wait > limit and not self._passed_over(source, texts, tokens, left, now):
            why = f"it would wait {wait:.1f} s, {limit:g} s are allowed"
        elif wait > left:
            why = f"it would wait {wait:.1f} s, its deadline is in {left:.1f} s"
            limit = left
        else:
            self._told.pop(source, None)
            return
        after = int(1000 * self._after(wait, limit, tokens, now))
        self._told[source] = now + after / 1000
        self._told.move_to_end(source)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        raise Refused("overloaded", why, retry_after_ms=after)

    def _passed_over(self, source: str, texts: int, tokens: int, left: float, now: float) -> bool:
        """Whether it came again as it was told, others get in before it, and it can be done."""
        books, limits, pace = self._books, self._limits, self._pace()
        told = self._told.get(source)
        if told is None or not told <= now <= told + LATEST or books.held(source).texts:
            return False
        waiting = books.all
        small = waiting.tokens / waiting.texts  # who asks for one text more is let in
        return (
            books.clients * small <= pace * limits.seconds / 2
            and books.clients * tokens <= pace * left
            and waiting.texts + texts <= limits.texts // self._routers() // 2
        )

    def _after(self, wait: float, limit: float, tokens: int, now: float) -> float:
        """Seconds until it is worth coming again.

        Those until the wait is short enough; and the more is refused the more of the wait itself,
        for whoever is refused comes again, and they are not to be a multitude that asks all the
        time.
        """
        refused = self._refusing(now) + tokens / FADING
        self._refused, self._refused_at = refused, now
        pace = self._pace()
        if pace <= 0:
            seconds = UNKNOWN
        else:
            seconds = max(wait - limit, 0.0) + wait * refused / (refused + pace)
        self._place = (self._place + SPREAD) % 1.0
        return min(max(seconds, SOONEST), LATEST) * (0.75 + 0.5 * self._place)

    def _refusing(self, now: float) -> float:
        """Tokens a second that were refused lately."""
        return self._refused * math.exp((self._refused_at - now) / FADING)
