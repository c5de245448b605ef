"""Who may do what on `tcp://`: roles, and what one key may do under its own.

A role says which types a key may publish, hear (and read in the journal, which is the same event
later), in which groups it may consume, how much feedback it may give, and how much it may have
embedded. Whatever the role, a key speaks only as its own sources, and of what is addressed it hears
what is addressed to those.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

import schemas
from bus import protocol
from bus.access.quota import Once, Quota
from bus.access.roles import Role
from bus.errors import NotPermitted, OverQuota
from schemas import Event, Payload

__all__ = ["ANY", "Grant", "Sources", "address_patterns", "overlap"]

ANY = "/"
"""The pattern of a key that may speak as anybody."""
REMEMBERED = 1_000
"""Sources that are known to be the key's own, kept by grant."""
LONGEST = 256
"""Characters of a source or address beyond which nobody owns it."""
FEEDBACK = frozenset({schemas.FeedbackGiven.type, schemas.GenerationObserved.type})
"""What the quota counts: words of people and tools from which the fleet learns."""

Sources = tuple[str, ...]
"""Patterns: `/laptop/` is everything below, `/encoder/gpu-1` that one, `/` anything."""


def address_patterns(sources: Sources) -> tuple[str, ...]:
    """The addresses that belong to sources: `laptop-` (all that begin so), `encoder-gpu-1`."""
    return tuple(
        "" if one == ANY else schemas.address_of(one) + "-" * one.endswith("/") for one in sources
    )


def overlap(ours: Sources, theirs: Sources) -> bool:
    """Whether answers to one could reach the other: subscriptions are prefixes of addresses."""
    return any(
        one.startswith(other) or other.startswith(one)
        for one in address_patterns(ours)
        for other in address_patterns(theirs)
    )


def _remember(names: set[str], name: str) -> None:
    if len(names) >= REMEMBERED:
        names.clear()
    names.add(name)


def _fits(name: str, patterns: Iterable[str], end: str) -> bool:
    if len(name) > LONGEST:
        return False
    return any(
        name.startswith(one) if one.endswith(end) or not one else name == one for one in patterns
    )


class Grant:
    """What one key may do; made anew whenever its file or its role is changed.

    Every check raises `NotPermitted`, or `OverQuota`, with a sentence that the client is told.
    """

    def __init__(self, name: str, role: Role, sources: Sources, quota: Quota, asked: Once) -> None:
        self.name = name
        self.role = role
        self.sources = sources
        self._addresses = address_patterns(sources)
        self._publish = role.published()
        self._quota = quota
        self._asked = asked
        self._own: set[str] = set()
        self._recipients: set[str] = set()
        self.topics = tuple(sorted(_topics(role, sources, self._addresses)))
        """Prefixes of topics: this key hears what begins with one of them, and nothing else."""
        self._whole = frozenset(
            one.encode() for one in (*self._addresses, *sources) if one[-1:] not in ("", "-", "/")
        )
        self.readable: frozenset[str] = frozenset(
            kind.type
            for kind in schemas.catalogue().values()
            if kind.lane is schemas.Lane.DURABLE and self.hears(kind.type.encode())
        )
        """Durable types that it may read in the journal."""
        told = self.hears(schemas.FleetHeartbeat.type.encode())
        self.numbered: frozenset[str] | None = None if told else self.readable
        """Types whose last number it may know; None for all: a heartbeat tells them anyway."""

    def __str__(self) -> str:
        """For sentences: who it is."""
        own = " or ".join(f"{one}…" if one.endswith("/") else one for one in self.sources)
        return f"the key {self.name!r} ({self.role.name}), which speaks as {own},"

    # names

    def owns(self, source: str) -> bool:
        """Whether it may speak as this source."""
        if source in self._own:
            return True
        found = _fits(source, self.sources, "/")
        if found:
            _remember(self._own, source)
        return found

    def is_addressed(self, recipient: str) -> bool:
        """Whether what is sent to this recipient is meant for it."""
        if recipient in self._recipients:
            return True
        found = _fits(recipient, self._addresses, "-") or self.owns(recipient)
        if found:
            _remember(self._recipients, recipient)
        return found

    # topics

    def hears(self, topic: bytes) -> bool:
        """Whether everything that begins with `topic` may be heard."""
        if topic in self.topics:
            return True
        return any(topic.startswith(one) and not self._is_whole(one) for one in self.topics)

    def _is_whole(self, topic: bytes) -> bool:
        """Whether it names one recipient, not all whose names begin so."""
        return topic.partition(b"@")[2] in self._whole

    def narrowed(self, topic: bytes) -> tuple[bytes, ...]:
        """What of a subscription is granted: all of it, some narrower ones, or nothing."""
        if self.hears(topic):
            return (topic,)
        return tuple(one for one in self.topics if one.startswith(topic))

    # events

    def check_event(self, event: Event[Any]) -> None:
        """Whether it may publish this, under that name, and what is said of the sender is true."""
        kind, data = event.type, event.data
        if kind not in self._publish:
            raise NotPermitted(f"{self} may not publish {kind}")
        if not self.owns(event.source):
            raise NotPermitted(f"{self} may not speak as {event.source[:LONGEST]!r}")
        claim = _CLAIMS.get(type(data))
        if claim is None:
            return
        if claim == "reply_to":
            if not self.is_addressed(data.reply_to):
                raise NotPermitted(
                    f"{self} may not have answers sent to {data.reply_to[:LONGEST]!r}"
                )
        elif claim == "instance":
            if f"/{data.service}/{data.instance}" != event.source:
                raise NotPermitted(f"a heartbeat of {event.source} speaks for that process alone")
        elif getattr(data, claim) != schemas.address_of(event.source):
            raise NotPermitted(f"the {claim} of {kind} is the one who says it")

    def charge(self, events: Collection[str]) -> None:
        """Count what these types take of the quota; all of it, or `OverQuota` and nothing."""
        pieces = sum(kind in FEEDBACK for kind in events)
        wait = self._quota.take(pieces) if pieces else 0.0
        if wait:
            raise OverQuota(
                f"{self} may give {self._quota.most} pieces of feedback an hour:"
                f" again in {wait:.0f} s"
            )

    def beyond(self, event: Event[schemas.EncodeRequested]) -> schemas.EncodeFailed | None:
        """Count a request's texts; the answer to one that is beyond the quota, else None.

        The same request, sent again while it waits for its answer, is not counted again.
        """
        data = event.data
        texts = len(data.texts) + (data.intent is not None)
        wait = self._asked.take((event.source, event.id, data), texts)
        if not wait:
            return None
        why = f"{self} may have {self._asked.most} texts embedded a minute"
        if math.isinf(wait):
            return schemas.EncodeFailed(
                request_id=event.id,
                code="too_large",
                message=f"{why}, this request has {texts}: split it",
            )
        return schemas.EncodeFailed(
            request_id=event.id,
            code="overloaded",
            message=f"{why}: again in {wait:.1f} s",
            retry_after_ms=math.ceil(1000 * wait),
        )

    # the journal

    def check_request(self, asked: protocol.Request) -> protocol.Request:
        """The request as far as it is granted: a `read` of everything becomes one of what it may
        hear."""
        match asked:
            case protocol.Read(types=None):
                return msgspec.structs.replace(asked, types=sorted(self.readable))
            case protocol.Read(types=types) if types is not None:
                self._check_readable(types)
            case protocol.Lease(group=group, types=types):
                if not self.role.consumes(group):
                    raise NotPermitted(f"{self} may not consume as {group[:LONGEST]!r}")
                self._check_readable(types)
            case protocol.Ack() | protocol.Nack() | protocol.Extend() | protocol.Defer():
                if not self.role.consume:
                    raise NotPermitted(f"{self} consumes nothing: it has no leases")
            case protocol.Dead():
                self._check_power("dead")
            case protocol.GroupsAsked() | protocol.Drop():
                self._check_power("groups")
            case protocol.Erase():
                self._check_power("erase")
        return asked

    def _check_readable(self, types: Sequence[str]) -> None:
        for kind in types:
            if kind not in self.readable:
                raise NotPermitted(f"{self} may not read {kind[:LONGEST]!r}")

    def _check_power(self, power: str) -> None:
        if power not in self.role.administer:
            raise NotPermitted(f"{self} does not administer the journal: no {power}")


_CLAIMS: Mapping[type[Payload], str] = {
    schemas.EncodeRequested: "reply_to",
    schemas.SkillListRequested: "reply_to",
    schemas.FleetHeartbeat: "instance",
    schemas.EncodeFinished: "worker",
    schemas.AdapterLoaded: "worker",
    schemas.AdapterUnloaded: "worker",
    schemas.AdapterFailed: "worker",
    schemas.EncodeAssigned: "router",
}
"""Where an event's data says who its sender is, or where the answer goes."""


def _topics(role: Role, sources: Sources, addresses: Sequence[str]) -> Iterable[bytes]:
    everything, anybody = role.heard()
    kinds = schemas.catalogue()
    for name in everything:
        if not kinds[name].addressed:
            yield name.encode()
        elif name in anybody:
            yield f"{name}@".encode()
        else:
            # The broker addresses its refusals by the source as it stands.
            own = sources if name == schemas.EventRefused.type else addresses
            for one in own:
                yield f"{name}@{'' if one == ANY else one}".encode()
