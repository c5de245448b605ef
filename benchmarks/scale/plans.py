"""What is simulated, and what comes of it."""

from __future__ import annotations

import msgspec

__all__ = ["Outcome", "Plan"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated."""

    carrier: str
    encoders: int
    routers: int = 1
    texts: int = 1
    """Of a request."""
    clients: int = 0
    """That ask again as soon as they are answered; 0: requests come by themselves."""
    rate: float = 0.0
    """Requests a second that come by themselves, at random moments (Poisson)."""
    requests: int = 5000
    seed: int = 1
    cores: float = 0.0
    """Of one machine that has them all, clients too; 0: each process has a core of its own, and
    clients have as many as they like."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; utilisations are shares of the time, 0 to 1."""

    plan: Plan
    rate: float
    """Requests a second."""
    texts: float
    """Texts a second."""
    events: float
    """Events a second on the bus, heartbeats too."""
    p50_ms: float
    p99_ms: float
    broker: float
    router: float
    """Mean of the routers; so is the next one."""
    encoder: float

    @property
    def first(self) -> str:
        """Who is the busiest."""
        shares = {"broker": self.broker, "router": self.router, "encoders": self.encoder}
        return max(shares, key=lambda name: shares[name])
