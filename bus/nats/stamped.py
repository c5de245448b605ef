"""A stored message as readers see it: the event with its numbers; and what erasing leaves."""

from __future__ import annotations

import msgspec

import schemas
from bus.nats.server import Stored

__all__ = ["ERASED", "is_erased", "numbered"]

ERASED = "Consonance-Erased"
"""The sequence that an erased event had: this empty message keeps its subject taken, so that a late
resend of the event does not bring it back."""


class _Unreadable(msgspec.Struct):
    sequence: int
    type: str


def is_erased(stored: Stored) -> bool:
    """Whether it stands for an event that was erased."""
    return ERASED in stored.headers


def numbered(stored: Stored, kind: str, previous: int | None) -> bytes:
    """The event's JSON with its sequence; with `previous`, where that is known.

    What is no event keeps nothing but its number and type, so that readers pass it over.
    """
    raw = stored.body.strip()  # a tool may write its JSON with a line's end
    if not raw.startswith(b"{") or not raw.endswith(b"}") or len(raw) < 3:
        return msgspec.json.encode(_Unreadable(stored.sequence, kind))
    if previous is None and b'"sequence"' not in raw and b'"previous"' not in raw:
        return b'%s,"sequence":%d}' % (raw[:-1], stored.sequence)
    try:
        return schemas.stamp(raw, sequence=stored.sequence, previous=previous or 0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(_Unreadable(stored.sequence, kind))
