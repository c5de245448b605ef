"""What is told to whoever sent an event that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from schemas.encoding import EncodeFailed, EncodeRequested, EventRefused
from schemas.envelope import Event
from schemas.errors import LONGEST

__all__ = ["refusals"]


NAMES = 1 << 14
"""Characters of an id and the names of who asked, all of which are repeated."""


class _Data(msgspec.Struct, frozen=True):
    reply_to: str = ""


class _Origin(msgspec.Struct, frozen=True):
    id: str = ""
    source: str = ""
    type: str = ""
    data: _Data = _Data()


def refusals(
    raw: bytes, code: str, message: str, *, source: str, thorough: bool
) -> tuple[Event[Any], ...]:
    """The answers to a refused event, as far as it says who asked; none where it does not, or at
    such a length that answers would be larger than what is taken.

    `event.refused` to its source; and where it is an `encode.requested`, an `encode.failed` after
    it to who waits for that. `thorough` reads also what is JSON by the letter but no Unicode, such
    as half of a surrogate pair; this takes time in proportion to the event.
    """
    origin = _origin(raw, thorough)
    if len(origin.id) + len(origin.source) + len(origin.data.reply_to) > NAMES:
        return ()
    if len(message) > LONGEST:
        message = message[:LONGEST] + "…"
    answers: list[Event[Any]] = []
    if origin.id and origin.source:
        refused = EventRefused(id=origin.id, code=code, message=message)
        answers.append(
            Event(data=refused, source=source, to=origin.source, correlation_id=origin.id)
        )
    if origin.id and origin.type == EncodeRequested.type and origin.data.reply_to:
        failed = EncodeFailed(
            request_id=origin.id,
            code="too_large" if code == "too_large" else "invalid",
            message=message,
        )
        answers.append(
            Event(data=failed, source=source, to=origin.data.reply_to, correlation_id=origin.id)
        )
    return tuple(answers)


def _origin(raw: bytes, thorough: bool) -> _Origin:
    try:
        return msgspec.json.decode(raw, type=_Origin)
    except (ValueError, RecursionError):
        if not thorough:
            return _Origin()
    try:
        found = json.loads(raw)  # more lenient: it takes surrogates as they come
    except (ValueError, RecursionError):
        return _Origin()
    attributes = found if isinstance(found, dict) else {}
    data = attributes.get("data")
    return _Origin(
        id=_text(attributes.get("id")),
        source=_text(attributes.get("source")),
        type=_text(attributes.get("type")),
        data=_Data(_text(data.get("reply_to")) if isinstance(data, dict) else ""),
    )


def _text(value: object) -> str:
    """The value if it is a text that can be sent, else an empty one."""
    try:
        return value if isinstance(value, str) and value.encode() else ""
    except UnicodeEncodeError:
        return ""
