"""Events of one size, from the docstrings of Python's builtins: the same at every run."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from typing import Any

import schemas
from schemas import EncodeRequested, Event, FeedbackGiven, Payload

__all__ = ["SIZE", "SOURCE", "feedback", "requests", "texts", "whole"]

SIZE = 500
"""Bytes of one event's JSON."""
DIFFERENT = 128
"""Events that differ; then they come again, with an id of their own."""
SOURCE = "/bench/publisher"


def texts(count: int = DIFFERENT) -> list[str]:
    """So many texts of `SIZE` characters, all of them ASCII that JSON writes as it is."""
    plain = " ".join(" ".join(_docstrings()).replace('"', "'").replace("\\", "/").split())
    source = plain.encode("ascii", "ignore").decode()
    step = (len(source) - SIZE) // count
    return [source[at : at + SIZE] for at in range(0, count * step, step)]


def _docstrings() -> Iterator[str]:
    for _, thing in sorted(vars(builtins).items()):
        yield getattr(thing, "__doc__", None) or ""
        if isinstance(thing, type):
            for _, member in sorted(vars(thing).items()):
                yield getattr(member, "__doc__", None) or ""


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
