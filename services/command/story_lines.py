"""What the log files of a state folder tell of a story, where they are at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["FIRST_ANSWER", "Line", "lines_of"]

FIRST_ANSWER: Final = "first answer with a card"
"""As the encoder logs it."""

_FIELDS: Final = frozenset({"timestamp", "level", "event", "service", "instance", "exception"})


class Line(NamedTuple):
    """One line of a log."""

    time: datetime
    level: str
    source: str
    """`/encoder/1`, as on events."""
    text: str
    fields: dict[str, Any]
    """What it says besides."""


def lines_of(folder: Path, names: Collection[str], *, debug: bool = False) -> list[Line]:
    """Lines that bear one of these ids, the oldest first; none where there are no files."""
    wanted = [name.encode() for name in names]
    found = []
    for path in sorted(folder.glob("*.log*")):
        for raw in _raw(path):
            if any(name in raw for name in wanted):
                line = _line(raw)
                if line is not None and (debug or line.level != "debug"):
                    found.append(line)
    return sorted(found, key=lambda line: line.time)


def _raw(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError:  # it was rotated away, or is somebody else's
        return


def _line(raw: bytes) -> Line | None:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Any])
        time = datetime.fromisoformat(fields["timestamp"])
        text = str(fields["event"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    return Line(
        time if time.tzinfo else time.replace(tzinfo=UTC),
        str(fields.get("level", "info")),
        f"/{fields.get('service', '')}/{fields.get('instance', '')}",
        text,
        {key: value for key, value in fields.items() if key not in _FIELDS},
    )
