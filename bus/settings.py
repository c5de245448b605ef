"""What an operator may set about the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from bus.errors import BusError
from schemas.toml import parse_toml

__all__ = ["BrokerSettings", "InvalidSettings", "load_settings"]


class InvalidSettings(BusError):
    """A configuration file that cannot be used, and why."""


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The `[bus]` table of the configuration; keys meant for other processes are ignored."""

    retention_days: Annotated[float, Meta(gt=0)] = 30.0
    """Days that a journaled event is kept, once every declared group has acknowledged it."""
    retention_bytes: Annotated[int, Meta(ge=2**20)] = 2**30
    """Bytes of journaled events; the oldest go beyond it, acknowledged ones first."""
    max_deliveries: Annotated[int, Meta(ge=1)] = 5
    """Failed deliveries of an event to a group, after which it becomes a dead letter."""
    free_lapses: Annotated[int, Meta(ge=0)] = 2
    """Leases of an event that may run out before running out counts as a failed delivery."""
    max_event_bytes: Annotated[int, Meta(ge=1024)] = 2**20
    """Bytes of one event's JSON; a live event's attachments are not counted."""
    max_message_bytes: Annotated[int, Meta(ge=2**20)] = 64 * 2**20
    """Bytes of one frame; a connection that sends more is closed."""
    heartbeat_seconds: Annotated[float, Meta(gt=0)] = 2.0
    """Seconds between two heartbeats of the broker."""
    subscriber_queue: Annotated[int, Meta(ge=1)] = 10_000
    """Messages that wait for one slow subscriber; beyond it live ones are dropped."""
    writer_queue_bytes: Annotated[int, Meta(ge=2**20)] = 64 * 2**20
    """Bytes that wait for the journal; beyond it requests are put off."""
    maintenance_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Seconds between two looks for what retention removes."""

    def __post_init__(self) -> None:
        if self.max_event_bytes > self.retention_bytes // 2:
            raise ValueError("max_event_bytes must be at most half of retention_bytes")


def load_settings(path: Path | None) -> BrokerSettings:
    """The `[bus]` table of a TOML file; defaults where there is none.

    Raises `InvalidSettings` naming the file and what is wrong in it.
    """
    if path is None:
        return BrokerSettings()
    try:
        table = parse_toml(path.read_bytes()).get("bus", {})
        return msgspec.convert(table, BrokerSettings)
    except OSError as e:
        raise InvalidSettings(f"cannot read the configuration {path}: {e.strerror}") from e
    except (ValueError, msgspec.ValidationError) as e:
        raise InvalidSettings(f"the [bus] table of {path} is invalid: {e}") from e
