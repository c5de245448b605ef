"""What is said of processes and peers."""

from __future__ import annotations

from typing import ClassVar

from schemas.base import Payload

__all__ = ["FleetHeartbeat", "FleetStop", "PeerJoined", "PeerLeft"]


class PeerJoined(Payload, frozen=True, kw_only=True):
    """A peer was found."""

    type: ClassVar[str] = "peer.joined"

    peer: str
    endpoint: str


class PeerLeft(Payload, frozen=True, kw_only=True):
    """A peer is gone."""

    type: ClassVar[str] = "peer.left"

    peer: str
    endpoint: str


class FleetHeartbeat(Payload, frozen=True, kw_only=True):
    """A process is alive; said every 2 s, and at once when its state changes."""

    type: ClassVar[str] = "fleet.heartbeat"

    service: str
    instance: str
    pid: int
    state: str
    """`starting`, `ready`, `draining`, `degraded` or `stopped`."""
    queue: int
    rss_bytes: int
    counters: dict[str, int | float]
    heads: dict[str, int] | None = None
    """The broker's only: the last sequence of every durable type."""
    trouble: str | None = None
    """With `degraded`: what is wrong and what helps, in words."""
    host: str | None = None
    """The name of the machine on which it runs: pids count for that one alone."""
    life: str | None = None
    """Another one each time that a process starts, a later one larger: two that bear the same name
    know of each other by it."""


class FleetStop(Payload, frozen=True, kw_only=True):
    """The fleet, or one service, is to stop."""

    type: ClassVar[str] = "fleet.stop"

    service: str | None = None
