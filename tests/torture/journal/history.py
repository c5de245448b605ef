"""What the processes of the storm write down, and what is made of it: one history.

Every process appends a line to a file of its own before and after each step. A line is with the
system once `os.write` has returned: SIGKILL takes none of them back. What was begun and has no
second line has an unknown outcome: it may have happened, and may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

__all__ = [
    "Acknowledged",
    "Attempted",
    "Dead",
    "Delivered",
    "Failed",
    "Fault",
    "History",
    "Kept",
    "Life",
    "Log",
    "Record",
    "Seen",
    "Step",
    "Turn",
    "read_life",
]


class _Line(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Attempted(_Line, frozen=True, array_like=True, gc=False, tag="p"):
    """A publisher is about to publish this id."""

    id: str


class Acknowledged(_Line, frozen=True, array_like=True, gc=False, tag="k"):
    """The publisher was told that the event is journaled, under this number."""

    id: str
    sequence: int


class Delivered(_Line, frozen=True, array_like=True, gc=False, tag="d"):
    """A consumer holds this event."""

    at: float
    """Seconds since the epoch."""
    lease: str
    sequence: int
    id: str
    attempt: int


class Step(_Line, frozen=True, array_like=True, gc=False, tag="e"):
    """A consumer ends leases: first `try`, then `ok`, `stale` or `unknown`."""

    how: str
    """`ack`, `nack` or `defer`."""
    outcome: str
    leases: tuple[str, ...]


class Seen(_Line, frozen=True, array_like=True, gc=False, tag="w"):
    """A watcher was handed this event."""

    sequence: int
    id: str


class Failed(_Line, frozen=True, array_like=True, gc=False, tag="x"):
    """Something came that no fault excuses."""

    what: str


Record = Attempted | Acknowledged | Delivered | Step | Seen | Failed
_decoder = msgspec.json.Decoder(Record)


class Log:
    """One life's file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *records: Record) -> None:
        """Append; there when this returns, whatever happens to the process."""
        os.write(self._file, b"".join(msgspec.json.encode(each) + b"\n" for each in records))


@dataclass(frozen=True)
class Life:
    """One process from its start to its end."""

    name: str
    number: int
    records: Sequence[Record]
    group: str = ""
    """Of a consumer."""


def read_life(path: Path, name: str, number: int, group: str = "") -> Life:
    """Its lines; a last one that was cut short was never written."""
    whole = path.read_bytes() if path.exists() else b""
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    return Life(name, number, [_decoder.decode(line) for line in lines], group)


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An event as the journal has it in the end."""

    sequence: int
    type: str
    id: str
    previous: int
    cause: str | None = None


class Dead(msgspec.Struct, frozen=True, gc=False):
    """A dead letter."""

    group: str
    id: str
    reason: str


class Turn(msgspec.Struct, frozen=True, gc=False):
    """A change of one event's place in one group, written in the journal's own transaction."""

    n: int
    what: str
    """`fresh` and `again`: leased; `lapse`, `nack`, `back`: waiting; `ack`, `dead`: ended."""
    group: str
    sequence: int
    attempt: int
    lease: str | None
    at: float
    """The journal's clock where the turn depends on it (s)."""
    until: float
    """When the lease that ended was to run out."""


class Fault(msgspec.Struct, frozen=True):
    """Something that was done to a process."""

    kind: str
    """`kill`, `stop` (in order, then started again) or `freeze`."""
    target: str
    at: float
    """Seconds since the storm began."""
    lasts: float
    """Seconds until it runs again."""


@dataclass(frozen=True)
class History:
    """Everything that is known about one storm."""

    groups: Mapping[str, frozenset[str]]
    """The types that each group consumes."""
    deriving: str
    """The group that publishes one event for each that it acknowledges."""
    publishers: Sequence[Life]
    consumers: Sequence[Life]
    watchers: Sequence[Life]
    """Lives of one name follow each other: each goes on after the last number before it."""
    journal: Sequence[Kept]
    dead: Sequence[Dead]
    turns: Sequence[Turn]
    visibility: float = 5.0
    """Of every lease (s)."""
    poison: Mapping[str, str] = field(default_factory=dict)
    """By id, what its dead letter's reason must contain."""
    unreadable: frozenset[str] = frozenset()
    """Ids of what stands in the journal and cannot be decoded."""
    away: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """From when to when each process was down or frozen, on the clock of `Delivered.at`."""
