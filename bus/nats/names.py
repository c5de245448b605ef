"""Where the servers are, and what a fleet's subjects and streams are called on them.

consonance.live.training.progressed                 a live event
consonance.live.encode.completed.@client-7f3a       an addressed one
consonance.durable.feedback.given.<digest>          a durable one: one subject an event
consonance.told.feedback.given.<digest>             the same, said by the server once stored
consonance.group.<group>                            what a group has leased
consonance.asked.<group>                            does anybody consume as it?
consonance.dead.<group>.<sequence>                  a dead letter
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from bus.errors import InvalidUrl

__all__ = ["OWN", "SCHEMES", "Names", "Place", "place_of"]

SCHEMES = ("nats://", "tls://")
PORT = 4222
OWN = "@"
"""How what is no group's begins that the bus keeps for itself among the groups' states."""
_DERIVED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A UUIDv5, as `Event.derive` makes it."""
_FLEET = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SAFE = "!$&'+,-/:;=@_~"


class Place(NamedTuple):
    """What a URL names."""

    servers: tuple[str, ...]
    """One URL each, with what a user needs to be let in."""
    fleet: str
    shown: str
    """The URL without a password, for people."""
    secured: bool
    """Whether TLS is asked for by the URL."""


class Names:
    """The subjects and streams of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.fleet = fleet
        self.journal = fleet
        """The stream of durable events."""
        self.groups = f"{fleet}-groups"
        self.dead = f"{fleet}-dead"
        self.every = f"{fleet}.durable.>"
        self._durable = f"{fleet}.durable."
        self._told = f"{fleet}.told."
        self._group = f"{fleet}.group."
        self._dead = f"{fleet}.dead."

    def event(self, kind: str, source: str, name: str, cause: str | None = None) -> str:
        """The one subject that a durable event has by its type, source and id.

        The id of a derived event says all: two members of a group that both derive it, since one
        was too late to acknowledge, make one event, though their sources differ.
        """
        derived = cause is not None and _DERIVED.fullmatch(name)
        text = f":{name}" if derived else f"{len(source)}:{source}{name}"
        digest = blake2b(text.encode(), digest_size=16).hexdigest()
        return f"{self._durable}{kind}.{digest}"

    def events(self, kind: str) -> str:
        """All durable events of a type."""
        return f"{self._durable}{kind}.*"

    def kind(self, subject: str) -> str:
        """The type that a durable event's subject names."""
        return subject.removeprefix(self._durable).removeprefix(self._told).rpartition(".")[0]

    def told(self, kind: str = "") -> str:
        """What the server says of a type's events once they are stored; of all without one."""
        return f"{self._told}{kind}.*" if kind else f"{self._told}>"

    def live(self, topic: str) -> str:
        """A live topic, `type` or `type@recipient`."""
        kind, at, recipient = topic.partition("@")
        return f"{self.fleet}.live.{kind}" + (f".@{_token(recipient)}" if at else "")

    def group(self, name: str) -> str:
        """A group's state."""
        return f"{self._group}{_token(name)}"

    def asked(self, name: str) -> str:
        """The question whether anybody consumes as a group."""
        return f"{self.fleet}.asked.{_token(name)}"

    @property
    def every_group(self) -> str:
        """All groups' states."""
        return f"{self._group}*"

    @property
    def every_letter(self) -> str:
        """All dead letters."""
        return f"{self._dead}>"

    def group_of(self, subject: str) -> str:
        """The group that the subject of its state, or of a dead letter, names."""
        token = subject.removeprefix(self._group).removeprefix(self._dead).partition(".")[0]
        return unquote(token)

    def letter(self, group: str, sequence: int) -> str:
        """The dead letter that a group made of an event."""
        return f"{self._dead}{_token(group)}.{sequence}"


def _token(text: str) -> str:
    """A text as one token of a subject."""
    return quote(text, safe=_SAFE).replace(".", "%2E").replace("~", "%7E") or "%"


def place_of(url: str) -> Place:
    """What `nats://host:4222,other:4222/fleet` names; raises `InvalidUrl`.

    `tls://` asks for TLS; `user:password@` or `token@` may stand before each host; without a
    fleet's name it is `consonance`.
    """
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), "")
    if not scheme:
        raise InvalidUrl(f"{_bare(url)!r} is no NATS server: expected nats://host:4222")
    hosts, _, fleet = url.removeprefix(scheme).partition("/")
    fleet = fleet.rstrip("/") or "consonance"
    if not _FLEET.fullmatch(fleet):
        raise InvalidUrl(
            f"{_bare(url)!r}: a fleet's name has up to 32 of a-z, 0-9, _ and -, not {fleet!r}"
        )
    servers, shown = [], []
    for host in hosts.split(","):
        server = _server(scheme, host, url)
        servers.append(server)
        shown.append(server.removeprefix(scheme).rpartition("@")[2])
    named = "" if fleet == "consonance" else f"/{fleet}"
    return Place(
        tuple(servers), fleet, f"{scheme}{','.join(shown)}{named}", secured=scheme == "tls://"
    )


def _server(scheme: str, host: str, url: str) -> str:
    parts = urlsplit(scheme + host)
    try:
        port = parts.port or PORT
    except ValueError as e:
        raise InvalidUrl(f"{_bare(url)!r} has no usable port: {e}") from e
    if not parts.hostname or parts.query or parts.fragment:
        raise InvalidUrl(f"{_bare(url)!r} needs a host: nats://host:4222")
    user = host.rpartition("@")[0]
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}{user + '@' if user else ''}{name}:{port}"


def _bare(url: str) -> str:
    """A URL without what stands before its hosts."""
    return re.sub(r"(?<=[/,])[^/,@]*@", "", url)
