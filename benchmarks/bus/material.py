"""Events of one size, from the docstrings of the standard library: the same at every run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import schemas
from demo import domain
from schemas import EncodeRequested, Event, FeedbackGiven, Payload

__all__ = ["SIZE", "feedback", "requests", "texts", "whole"]

SIZE = 500
"""Bytes of one event's JSON."""
DIFFERENT = 512
"""Events that differ; then they come again, with an id of their own."""
SOURCE = "/bench/publisher"


def texts(count: int = DIFFERENT) -> list[str]:
    """So many texts, each longer than an event."""
    pieces = itertools.cycle([f"{pair.query} {pair.passage} " for pair in domain.pairs()])
    found = []
    for _ in range(count):
        text = ""
        while len(text) <= SIZE:
            text += next(pieces)
        found.append("".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\'))
    return found


def requests(source: Sequence[str]) -> list[EncodeRequested]:
    """The data of live events of `SIZE` bytes."""
    room = _room(EncodeRequested(texts=("",), reply_to="bench"))
    return [EncodeRequested(texts=(text[:room],), reply_to="bench") for text in source]


def feedback(source: Sequence[str]) -> list[FeedbackGiven]:
    """The data of durable events of `SIZE` bytes."""
    room = _room(FeedbackGiven(query="", relevant=("",)))
    half = room // 2
    return [FeedbackGiven(query=text[:half], relevant=(text[half:room],)) for text in source]


def whole(data: Payload) -> Event[Any]:
    """An event whose id and time have their usual length."""
    at = schemas.now().replace(microsecond=123_456)
    return Event(data=data, source=SOURCE, id="0" * 36, time=at)


def _room(empty: Payload) -> int:
    """Bytes that a text may have for the event to have `SIZE`."""
    return SIZE - len(schemas.encode(whole(empty)))
