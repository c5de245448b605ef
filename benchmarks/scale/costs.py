"""What each step of a request costs on this machine, as it was measured; all else follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

__all__ = ["BROKER", "NATS", "Carrier", "Costs", "Encoding", "Index", "Path"]

BROKER: Final = "our broker"
NATS: Final = "NATS"


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """Requests through a real bus and a real router, answered by stand-ins that compute nothing."""

    encoders: int
    texts: int
    """Of each request."""
    requests: int
    waiting: int
    """Requests that are under way at any moment: where many wait, each takes less."""
    rate: float
    """Requests a second, with all processes on this machine's cores."""
    broker_us: float
    """CPU microseconds a request; so are the next ones. The NATS server's, where that carries."""
    router_us: float
    answers_us: float
    """Of the process that stands for all encoders."""
    clients_us: float


class Carrier(msgspec.Struct, frozen=True, kw_only=True):
    """One transport."""

    name: str
    """`our broker` or `NATS`."""
    light: Path
    """One encoder, 64 requests under way."""
    paths: tuple[Path, ...]
    """By encoders, all requests under way at once; the last one has lists of texts."""
    beat_broker_us: float
    """CPU microseconds a heartbeat of an encoder."""
    beat_router_us: float
    hear_us: float
    """CPU microseconds for which a process hears a request that is not its own, all decoded."""
    fan_us: float
    """What one more who hears a request costs the broker."""
    live: float
    """Events of 500 B a second, from one publisher to one subscriber, each a process."""
    live_broker_us: float
    """CPU microseconds an event of the same."""
    durable: float
    """Events of 500 B a second that 8 publishers have acknowledged."""
    durable_how: str
    """When what is acknowledged is on the disk."""
    stored: float
    """Bytes of the files that keep it, for each durable event of 500 B."""

    def single(self) -> tuple[Path, ...]:
        """Those of one text a request."""
        return tuple(path for path in self.paths if path.texts == 1)

    def lists(self) -> Path | None:
        """The one with several texts a request."""
        return next((path for path in self.paths if path.texts > 1), None)

    def router_us(self, encoders: int, texts: int = 1) -> float:
        """Microseconds a request, on the line through what was measured; with several `texts` as
        much more as the lists took that were measured."""
        return self._us(encoders, texts, lambda path: path.router_us)

    def broker_us(self, encoders: int, texts: int = 1) -> float:
        """The broker's."""
        return self._us(encoders, texts, lambda path: path.broker_us)

    def _us(self, encoders: int, texts: int, cost: Callable[[Path], float]) -> float:
        found = self.single()
        places = [path.encoders for path in found]
        values = [cost(path) for path in found]
        single = _line(places, values, encoders)
        lists = self.lists()
        if texts == 1 or lists is None:
            return single
        return single + max(cost(lists) - _line(places, values, lists.encoders), 0.0)


class Encoding(msgspec.Struct, frozen=True, kw_only=True):
    """One encoder of one thread."""

    batches: tuple[tuple[int, float], ...]
    """Tokens and CPU seconds of each batch that was recorded, while no other encoder computed."""
    tokens: tuple[int, ...]
    """Of the texts that requests are drawn from."""
    together: float
    """Speed of one where all cores compute, as a share of its speed alone."""
    request_us: float
    """CPU microseconds beside the forward pass: taken in, put into a batch, answered."""

    def line(self) -> tuple[float, float]:
        """Seconds of any batch, and of each token, by least squares."""
        tokens, seconds = np.array(self.batches, np.float64).T
        slope, start = np.polyfit(tokens, seconds, 1, w=1 / seconds)  # relative errors
        return max(float(start), 0.0), float(slope)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The index of a router with so many skills."""

    skills: int
    prototypes: int
    bytes: int
    own_us: float
    """Median of a query that a skill answers."""
    other_us: float
    """Of a query that none does."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    carriers: tuple[Carrier, ...]
    encoding: Encoding
    index: tuple[Index, ...]

    def carrier(self, name: str) -> Carrier:
        """By name; raises `KeyError`."""
        for carrier in self.carriers:
            if carrier.name == name:
                return carrier
        raise KeyError(name)


def _line(places: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at a place, on the least squares line, no lower than the least value."""
    if len(set(places)) < 2:
        return values[0]
    slope, start = np.polyfit(places, values, 1)
    return max(float(start + slope * at), min(values))
