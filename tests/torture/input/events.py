"""The event decoder: what `schemas` believes, any other reader of JSON reads alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

import schemas
from schemas import Event
from tests.torture.input.target import Target, hold
from tests.torture.input.trees import mutated

__all__ = ["TARGET", "sample", "samples"]

TOPIC = b"\x1f"
"""Between the topic and the event."""

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def sample(kind: Any) -> Any:
    """A sound value of an annotated type, each field filled."""
    info = msgspec.inspect.type_info(kind)
    return _value(info)


def _value(info: Any) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return info.cls(**{field.name: _value(field.type) for field in info.fields})
        case msgspec.inspect.StrType():
            pattern = info.pattern or ""
            return "sha256:" + "ab" * 32 if "sha256" in pattern else "bank" if pattern else "word"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return info.ge or 1
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.DateTimeType():
            return MOMENT
        case msgspec.inspect.LiteralType():
            return info.values[0]
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            return (_value(info.item_type),)
        case msgspec.inspect.TupleType():
            return tuple(map(_value, info.item_types))
        case msgspec.inspect.DictType():
            return {_value(info.key_type): _value(info.value_type)}
        case msgspec.inspect.UnionType():
            return _value(info.types[0])
        case msgspec.inspect.Metadata():
            return _value(info.type)
    raise TypeError(f"no sample of {info}")


def samples() -> list[list[bytes]]:
    """The frames of one event of every type."""
    found = []
    for name, kind in schemas.catalogue().items():
        to = "client-1" if kind.addressed else None
        event = Event(data=sample(kind), source="/test/1", id=f"id-{name}", time=MOMENT, to=to)
        found.append(schemas.frames(event))
    return found


def _seeds() -> list[bytes]:
    return [TOPIC.join(frames) for frames in samples()]


def _mutate(data: bytes, random: Random) -> bytes:
    topic, _, raw = data.partition(TOPIC)
    if random.random() < 0.1:
        topic = random.choice([topic + b"@", topic + b"@x", b"@", b"", topic + b"\xff", topic[:-1]])
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        raw = mutated(raw, random, list(schemas.catalogue()))
    return topic + TOPIC + raw


def check(data: bytes) -> bool:
    """Decode the bytes as the broker does, and hold what was believed against other readers."""
    topic, _, raw = data.partition(TOPIC)
    try:
        event = schemas.from_frames([topic, raw])
    except schemas.SchemaError as error:
        hold(len(str(error)) <= 2000, "the error repeats a long part of the input")
        return False
    try:
        raw.decode()
        read: Any = json.loads(raw)
    except (UnicodeDecodeError, RecursionError):
        return False  # the broker looks for both by itself
    hold(read["type"] == event.type, "another reader takes it for another type")
    hold(read["id"] == event.id and read["source"] == event.source, "another id or source")
    hold(schemas.header(raw).type == event.type, "its header tells another type")
    hold(event.time.tzinfo is not None, "its time is that of no place")
    for words in (event.correlation_id, event.causation_id, event.traceparent):
        hold(words is None or isinstance(words, str), "an attribute is no text")
    hold(event.topic.encode() == topic, "it would travel under another topic")
    _conforms(type(event.data), event.data)
    again = schemas.from_frames(schemas.frames(event))
    hold(again == msgspec.structs.replace(event, attachments=()), "written again it is another")
    stamped = schemas.stamp(raw, sequence=7, previous=3)
    numbered = schemas.decode(stamped)
    hold((numbered.sequence, numbered.previous) == (7, 3), "the journal's numbers did not stay")
    hold(json.loads(stamped)["sequence"] == 7, "another reader sees another number")
    hold(numbered.data == event.data, "stamped it says something else")
    return True


def _conforms(kind: Any, data: Any) -> None:
    """What msgspec checks on the way in holds on the way out, too: numbers are finite."""
    stack = [msgspec.to_builtins(data)]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, float):
            hold(value == value and abs(value) != float("inf"), "a number is not finite")
    found = msgspec.convert(msgspec.to_builtins(data), kind)
    hold(found == data, f"{kind.__name__} does not take what it gave")


TARGET = Target(
    name="events",
    about="the decoder of events",
    seeds=_seeds,
    mutate=_mutate,
    check=check,
    longest=1 << 14,
)
