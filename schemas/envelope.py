"""The envelope: a CloudEvents 1.0 event in JSON structured mode, and its frames on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, reduce
from operator import or_
from typing import Any, Generic, TypeVar

import msgspec

from schemas.base import Moment, Payload, catalogue, payload_type
from schemas.errors import InvalidAddress, InvalidData, MalformedEvent
from schemas.ids import NAMESPACE, derived_id, new_id

__all__ = [
    "NAMESPACE",
    "Event",
    "Header",
    "address_of",
    "decode",
    "derived_id",
    "encode",
    "frames",
    "from_frames",
    "header",
    "new_id",
    "now",
    "stamp",
]

_P = TypeVar("_P", bound=Payload)


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def address_of(source: str) -> str:
    """The recipient name of a process: `/encoder/2` is addressed as `encoder-2`."""
    return source.strip("/").replace("/", "-")


class Event(msgspec.Struct, Generic[_P], frozen=True, kw_only=True):
    """One event: typed data, where it comes from, and what it belongs to."""

    data: _P
    source: str
    id: str = msgspec.field(default_factory=new_id)
    time: datetime = msgspec.field(default_factory=now)
    to: str | None = None
    """The recipient of an addressed event; it travels in the topic."""
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    sequence: int | None = None
    """The journal's number of a durable event."""
    previous: int | None = None
    """The number of the event of the same type before it, 0 for the first."""
    attachments: tuple[bytes, ...] = ()
    """Large ones that came over a wire are views (`memoryview`) of what was received."""

    @property
    def type(self) -> str:
        """The event's type, as in the catalogue."""
        return self.data.type

    @property
    def topic(self) -> str:
        """The first frame: the type, and `@recipient` where it is addressed."""
        return self.type if self.to is None else f"{self.type}@{self.to}"

    def derive(
        self,
        data: Payload,
        *,
        source: str,
        ordinal: int = 0,
        to: str | None = None,
        attachments: Sequence[bytes] = (),
    ) -> Event[Any]:
        """An event caused by this one: doing the work twice makes the same id, kept once."""
        return Event(
            data=data,
            source=source,
            id=derived_id(self.source, self.id, data.type, ordinal),
            to=to,
            correlation_id=self.correlation_id or self.id,
            causation_id=self.id,
            traceparent=self.traceparent,
            attachments=tuple(attachments),
        )


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON object, its data still raw."""

    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw
    time: Moment | None = None
    datacontenttype: str = "application/json"
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    sequence: int | None = None
    previous: int | None = None


class _Written(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """The JSON object as it is written."""

    specversion: str
    id: str
    source: str
    type: str
    time: datetime
    datacontenttype: str
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    sequence: int | None = None
    previous: int | None = None
    data: Payload


class _Read(msgspec.Struct, kw_only=True, gc=False):
    """The JSON object as it is read; a subclass for each type, which tells the type of `data`."""

    specversion: str
    id: str
    source: str
    time: Moment | None = None
    datacontenttype: str = "application/json"
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    sequence: int | None = None
    previous: int | None = None
    data: Any


_header_decoder = msgspec.json.Decoder(Header)
_attributes_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


@cache
def _decoder() -> msgspec.json.Decoder[_Read]:
    """Reads the attributes and the data of every type in one pass."""
    kinds = [
        msgspec.defstruct(
            f"_Read_{kind.__name__}",
            [("data", kind)],
            bases=(_Read,),
            tag_field="type",
            tag=name,
            kw_only=True,
            gc=False,
        )
        for name, kind in catalogue().items()
    ]
    return msgspec.json.Decoder(reduce(or_, kinds))


@cache
def _data_decoder(kind: type[Payload]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def encode(event: Event[Any]) -> bytes:
    """The event's JSON; the recipient and the attachments travel in other frames.

    Raises `InvalidData` where a text of it is no Unicode.
    """
    written = _Written(
        specversion="1.0",
        id=event.id,
        source=event.source,
        type=event.data.type,
        time=event.time,
        datacontenttype="application/json",
        correlationid=event.correlation_id,
        causationid=event.causation_id,
        traceparent=event.traceparent,
        sequence=event.sequence,
        previous=event.previous,
        data=event.data,
    )
    try:
        return _encoder.encode(written)
    except UnicodeEncodeError as e:
        raise InvalidData(
            f"a text of this {event.type} holds half of a surrogate pair, which is no Unicode"
        ) from e


def header(raw: bytes) -> Header:
    """The attributes of an encoded event, its data unread; raises `MalformedEvent`."""
    try:
        found = _header_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise MalformedEvent(f"not a CloudEvents JSON event: {e}", raw) from e
    if found.specversion != "1.0":
        raise MalformedEvent(f"specversion is {found.specversion!r}, expected '1.0'", raw)
    if not found.id or not found.source:
        raise MalformedEvent("an event needs a non-empty id and source", raw)
    return found


def decode(raw: bytes, *, to: str | None = None, attachments: Sequence[bytes] = ()) -> Event[Any]:
    """The typed event; raises `MalformedEvent`, `UnknownType` or `InvalidData`."""
    try:
        found = _decoder().decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if found is None or found.specversion != "1.0" or not (found.id and found.source):
        found = _explained(raw)
    return Event(
        data=found.data,
        source=found.source,
        id=found.id,
        time=found.time or now(),
        to=to,
        correlation_id=found.correlationid,
        causation_id=found.causationid,
        traceparent=found.traceparent,
        sequence=found.sequence,
        previous=found.previous,
        attachments=tuple(attachments),
    )


def _explained(raw: bytes) -> _Read:
    """Step by step, for an error that says what is wrong."""
    found = header(raw)
    kind = payload_type(found.type)
    try:
        data = _data_decoder(kind).decode(found.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidData(f"the data of {found.type} is invalid: {e}", raw) from e
    return _Read(
        specversion=found.specversion,
        id=found.id,
        source=found.source,
        time=found.time,
        correlationid=found.correlationid,
        causationid=found.causationid,
        traceparent=found.traceparent,
        sequence=found.sequence,
        previous=found.previous,
        data=data,
    )


def stamp(raw: bytes, *, sequence: int, previous: int) -> bytes:
    """The same JSON with the journal's numbers; attributes unknown here are kept."""
    if b'"sequence"' not in raw and b'"previous"' not in raw:
        # An object that has neither: they go before its last brace, the rest is not read again.
        return b'%s,"sequence":%d,"previous":%d}' % (raw.rstrip()[:-1], sequence, previous)
    attributes: dict[str, Any] = dict(_attributes_decoder.decode(raw))
    attributes["sequence"] = sequence
    attributes["previous"] = previous
    return _encoder.encode(attributes)


def frames(event: Event[Any]) -> list[bytes]:
    """The multipart message `[topic, event, attachment…]`.

    Raises `InvalidAddress`, and `InvalidData` where a text is no Unicode.
    """
    if event.data.addressed and not event.to:
        raise InvalidAddress(f"{event.type} is addressed: it needs a recipient")
    if event.to is not None and not event.data.addressed:
        raise InvalidAddress(f"{event.type} goes to everybody: it takes no recipient")
    return [event.topic.encode(), encode(event), *event.attachments]


def from_frames(message: Sequence[bytes]) -> Event[Any]:
    """The event of a multipart message; raises a `SchemaError`."""
    if len(message) < 2:
        raise MalformedEvent("a message needs at least two frames: topic and event")
    try:
        kind, at, recipient = message[0].decode().partition("@")
    except UnicodeDecodeError as e:
        raise MalformedEvent("the topic is not UTF-8", bytes(message[1])) from e
    event = decode(message[1], to=recipient if at else None, attachments=message[2:])
    data = event.data
    if data.type != kind:
        raise MalformedEvent(
            f"the topic says {kind!r}, the event says {event.type!r}", bytes(message[1])
        )
    if data.addressed != bool(recipient) or bool(at) != bool(recipient):
        topic = message[0].decode()
        raise InvalidAddress(f"the topic {topic!r} does not fit {event.type}", bytes(message[1]))
    return event
