"""The base of every event's data, the names on the wire, and the catalogue."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from schemas.errors import UnknownType

__all__ = [
    "NAME_PATTERN",
    "Digest",
    "Lane",
    "Moment",
    "Name",
    "Payload",
    "Struct",
    "Version",
    "catalogue",
    "payload_type",
]

# A `$` alone would allow a line break after the name.
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)"

Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="A skill's or a domain's name.")]
Digest = Annotated[
    str,
    Meta(
        pattern=r"^sha256:[0-9a-f]{64}$(?!\n)", description="sha256: and 64 lower-case hex digits."
    ),
]
Version = Annotated[int, Meta(ge=1, description="Versions of a skill count up from 1.")]
Moment = Annotated[datetime, Meta(tz=True)]
"""A time with its distance from UTC (RFC 3339): one without cannot be compared with ours."""


class Lane(StrEnum):
    """How an event travels: `live` may be lost, `durable` is journaled before it is broadcast."""

    LIVE = "live"
    DURABLE = "durable"


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Immutable data; unknown fields are ignored, optional ones are absent at their default."""


class Payload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data of one event type. A subclass with a `type` is in the catalogue.

    `lane` says how it travels; `addressed` that its topic names a recipient (`type@recipient`).
    """

    type: ClassVar[str] = ""
    lane: ClassVar[Lane] = Lane.LIVE
    addressed: ClassVar[bool] = False


def _subclasses(parent: type[Payload]) -> list[type[Payload]]:
    found = []
    for child in parent.__subclasses__():
        found += [child, *_subclasses(child)]
    return found


@cache
def catalogue() -> dict[str, type[Payload]]:
    """Every event type by name, in alphabetical order."""
    named = {kind.type: kind for kind in _subclasses(Payload) if kind.type}
    return dict(sorted(named.items()))


def payload_type(name: str) -> type[Payload]:
    """The class of the event type `name`; raises `UnknownType`."""
    try:
        return catalogue()[name]
    except KeyError:
        raise UnknownType(f"unknown event type {name!r}: it is not in the catalogue") from None
