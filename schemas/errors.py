"""What can be wrong with an event.

SchemaError
├── MalformedEvent      the bytes are no CloudEvents 1.0 event in JSON
├── UnknownType         the event is one, of a type that the catalogue lacks
├── InvalidData         its data breaks the schema of its type
└── InvalidAddress      an addressed type without a recipient, or the reverse
"""

from __future__ import annotations

__all__ = ["InvalidAddress", "InvalidData", "MalformedEvent", "SchemaError", "UnknownType"]


LONGEST = 1000
"""Characters of a message: what was wrong is repeated in it, and may be long."""


class SchemaError(Exception):
    """An event that cannot be believed; `raw` keeps the bytes that failed."""

    code = "malformed"

    def __init__(self, message: str, raw: bytes = b"") -> None:
        if len(message) > LONGEST:
            message = message[:LONGEST] + "…"
        super().__init__(message)
        self.message = message
        self.raw = raw


class MalformedEvent(SchemaError):
    """The bytes are no CloudEvents 1.0 event in JSON structured mode."""


class UnknownType(SchemaError):
    """The event's type is not in the catalogue."""

    code = "unknown_type"


class InvalidData(SchemaError):
    """The event's data breaks the schema of its type."""


class InvalidAddress(SchemaError):
    """An addressed event has no recipient, or a broadcast one has."""
