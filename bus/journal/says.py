"""Whether an event says what an order to erase names."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["says"]


class _Told(msgspec.Struct):
    data: msgspec.Raw


def says(raw: bytes, where: Mapping[str, str]) -> bool:
    """Whether an event's data has all these values, to those who consume it.

    SQLite's own functions read JSON otherwise: of a key that comes twice the first one, and none
    that is written with an escape.
    """
    if b"\\" not in raw and not all(value.encode() in raw for value in where.values()):
        return False
    try:
        data = msgspec.json.decode(
            msgspec.json.decode(raw, type=_Told).data, type=dict[str, msgspec.Raw]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return all(field in data and _text(data[field]) == value for field, value in where.items())


def _text(value: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
