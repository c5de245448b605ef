"""The journal's requests and replies as they travel, and the topics that are no events.

A DEALER sends three frames, `[request id, verb, JSON]`, and gets `[request id, "ok", JSON]` or
`[request id, "error", {"code", "message"}]`. The request id is any bytes, unique per connection.
Requests may be sent again, byte for byte, after a lost connection:

- `append` keeps an event once by its source and id;
- `ack`, `nack` and `defer` are recognised by their bytes for 10 minutes after they were done and
  answered as the first time; a different request for the same lease is `stale_lease`;
- a `lease` that still waits is replaced by one with the same request id from the same DEALER
  identity; with `max: 0` that ends the wait. `max: 0` also declares a group without leasing.

A bare SUB learns that its subscriptions are live by subscribing, last, to `_echo.<nonce>`: the
broker answers a new subscription to such a topic with one message `[topic, ""]`. Over tcp the
second frame is an `Unheard` where some of them were refused. A bare PUB learns that it is
connected by sending `["_ping.<nonce>", ""]` until that comes back on egress.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from bus.contract import GroupState
from bus.errors import BusError, Refused

__all__ = [
    "ECHO",
    "ERROR",
    "OK",
    "PING",
    "REQUESTS",
    "Ack",
    "Append",
    "Appended",
    "Dead",
    "DeadEntry",
    "DeadList",
    "Defer",
    "Deliveries",
    "Drop",
    "Erase",
    "Erased",
    "Error",
    "Extend",
    "Granted",
    "GroupList",
    "GroupsAsked",
    "Heads",
    "HeadsAsked",
    "Lease",
    "Nack",
    "Page",
    "Read",
    "Request",
    "Unheard",
    "encode",
    "encode_error",
    "parse_request",
    "told",
]

OK = b"ok"
ERROR = b"error"
ECHO = b"_echo."
PING = b"_ping."
LONGEST = 1000
"""Characters of an error's message."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[int, Meta(ge=0, le=366 * 24 * 3600 * 1000)]
Visibility = Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]
Types = Annotated[list[str], Meta(min_length=1, max_length=1000)]
GroupName = Annotated[str, Meta(min_length=1, max_length=128)]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of one verb."""


class Append(Request, frozen=True, kw_only=True):
    """`append`: durable events as JSON objects; all are journaled, or none. → `Appended`"""

    events: list[Raw]


class Read(Request, frozen=True, kw_only=True):
    """`read`: what follows `after`; an empty page is the end. → `Page`"""

    types: list[str] | None = None
    """None or absent: every type."""
    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=2**63 - 1)] = 1000
    """At most 10,000; a page also ends after about 8 MiB."""


class Lease(Request, frozen=True, kw_only=True):
    """`lease`: the next due events for a group, waiting up to `wait_ms` for one. → `Deliveries`"""

    group: GroupName
    types: Types
    max: Count = 1
    wait_ms: Milliseconds = 0
    visibility_ms: Visibility = 30_000
    start: Literal["earliest", "latest"] = "earliest"
    """Where the group begins a type that it has not leased before."""


class Ack(Request, frozen=True, kw_only=True):
    """`ack`: end these leases and append these events, all or nothing. → `Appended`"""

    leases: list[str]
    publish: list[Raw] = []


class Nack(Request, frozen=True, kw_only=True):
    """`nack`: failed; again after `delay_ms`, or to the dead letters. → `{}`"""

    lease: str
    delay_ms: Milliseconds = 0
    reason: str = ""
    dead: bool = False
    """Straight to the dead letters: no further delivery could succeed."""


class Extend(Request, frozen=True, kw_only=True):
    """`extend`: the lease now ends `visibility_ms` from now. → `{}`"""

    lease: str
    visibility_ms: Visibility


class Defer(Request, frozen=True, kw_only=True):
    """`defer`: not yet; again at `until` (RFC 3339; absent: at once), uncounted. → `{}`"""

    lease: str
    until: datetime | None = None


class HeadsAsked(Request, frozen=True, kw_only=True):
    """`heads`: the last sequence of each type. → `Heads`"""


class Dead(Request, frozen=True, kw_only=True):
    """`dead`: list, deliver again, or drop dead letters; of all groups, or one. → `DeadList`"""

    action: Literal["list", "retry", "drop"] = "list"
    group: str | None = None
    ids: list[int] | None = None


class GroupsAsked(Request, frozen=True, kw_only=True):
    """`groups`: every group, and how far behind it is. → `GroupList`"""


class Drop(Request, frozen=True, kw_only=True):
    """`drop`: forget a group, its leases and dead letters. → `GroupList`, empty for no such group

    Refused with `consumed` while somebody waits for a lease as it or holds one, unless by `force`.
    """

    group: GroupName
    force: bool = False


class Erase(Request, frozen=True, kw_only=True):
    """`erase`: events of these types whose data has all these values. → `Erased`

    With `upto` only those with this sequence or a smaller one.
    """

    types: Types
    where: Annotated[dict[str, str], Meta(min_length=1, max_length=100)]
    upto: Count | None = None


class Appended(msgspec.Struct, frozen=True):
    """A sequence per event, in order; a duplicate has that of the first."""

    sequences: list[int]
    duplicates: list[int]
    """Positions in the request of events that the journal knew already."""


class Page(msgspec.Struct, frozen=True):
    """A stretch of the journal."""

    events: list[Raw]
    truncated: bool


class Granted(msgspec.Struct, frozen=True):
    """One leased event."""

    lease: str
    attempt: int
    event: Raw


class Deliveries(msgspec.Struct, frozen=True):
    """What was leased; empty where nothing came in time."""

    deliveries: list[Granted]


class Heads(msgspec.Struct, frozen=True):
    """The last sequence of every durable type that has one."""

    heads: dict[str, int]


class DeadEntry(msgspec.Struct, frozen=True):
    """One dead letter; where the bytes are no JSON `event` is null and `raw` has them in base64."""

    id: int
    group: str
    reason: str
    event: Raw
    raw: bytes | None = None


class DeadList(msgspec.Struct, frozen=True):
    """The dead letters concerned."""

    dead: list[DeadEntry]


class GroupList(msgspec.Struct, frozen=True):
    """The groups concerned, by name; of one that was dropped how it stood."""

    groups: list[GroupState]


class Erased(msgspec.Struct, frozen=True):
    """How many events were erased."""

    erased: int


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why not: `malformed`, `unknown_type`, `too_large`, `stale_lease`, `disk_full`, …"""

    code: str
    message: str
    retry_after_ms: int | None = None
    """With `overloaded`: when the same may be asked again."""


class Unheard(msgspec.Struct, frozen=True):
    """Which of a connection's subscriptions were refused: `not_permitted`."""

    code: str
    message: str
    topics: list[str]
    """As they were asked for; at most 100 of them."""


REQUESTS: dict[str, type[Request]] = {
    "append": Append,
    "read": Read,
    "lease": Lease,
    "ack": Ack,
    "nack": Nack,
    "extend": Extend,
    "defer": Defer,
    "heads": HeadsAsked,
    "dead": Dead,
    "groups": GroupsAsked,
    "drop": Drop,
    "erase": Erase,
}

_decoders = {name.encode(): msgspec.json.Decoder(kind) for name, kind in REQUESTS.items()}
encode = msgspec.json.Encoder().encode


def parse_request(verb: bytes, body: bytes) -> Request:
    """The typed request; raises `Refused` (`malformed`)."""
    decoder = _decoders.get(verb)
    if decoder is None:
        known = ", ".join(REQUESTS)
        said = verb[:40].decode(errors="replace")
        raise Refused(f"unknown verb {said!r}: expected one of {known}")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Refused(f"the request {verb.decode()!r} is malformed: {e}") from e


def encode_error(error: BusError) -> bytes:
    """The JSON of an error reply."""
    code = error.code if isinstance(error, Refused) else "malformed"
    return told(code, str(error))


def told(code: str, message: str, retry_after_ms: int | None = None) -> bytes:
    """The JSON of an error reply; what was asked may be long, and is not repeated at length."""
    said = message if len(message) <= LONGEST else message[:LONGEST] + "…"
    return encode(Error(code, said, retry_after_ms))
