"""The settings of federation: typed, with unit, default and range."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from services.runtime.settings_base import Section, doc

__all__ = ["NODE", "PEER", "FederationSettings"]

NODE: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
"""What a node's name looks like."""

PEER: Final = re.compile(
    rf"(?:(?P<node>{NODE})@)?(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\s:@/\[\]]+))"
    r":(?P<port>[0-9]{1,5})"
)
"""A peer as a person writes it: `HOST:PORT`, `NODE@HOST:PORT`, an IPv6 address in brackets."""


class FederationSettings(Section, frozen=True, kw_only=True):
    """Peers: which skills are served to them and fetched from them."""

    enabled: Annotated[
        bool,
        doc("Serve this node's skills to peers, and use theirs where their authors are trusted."),
    ] = True
    node: Annotated[
        str | None,
        doc(
            "This node's name among its peers; not set: the host's name and four digits of its key."
        ),
    ] = None
    host: Annotated[
        str | None,
        doc(
            "Address to bind; not set: every one with mutual TLS, the loopback without. Without "
            "certificates nothing but a loopback address is bound."
        ),
    ] = None
    port: Annotated[int, doc("Port to bind; 0: any free one.", ge=0, le=65535)] = 0
    advertise: Annotated[
        str | None,
        doc("Host that peers should connect to; not set: the addresses of this machine."),
    ] = None
    discovery: Annotated[bool, doc("Announce this node and find peers by mDNS.")] = True
    peers: Annotated[
        tuple[str, ...],
        doc("Peers that are asked without being discovered: `HOST:PORT` or `NODE@HOST:PORT`."),
    ] = ()
    prefetch: Annotated[
        Literal["none", "updates", "all"],
        doc(
            "What is fetched before anybody asks: nothing, newer versions of skills that came "
            "from the same author, or all that is on offer."
        ),
    ] = "updates"
    sync_interval: Annotated[
        float, doc("Time between two looks at what a peer offers.", "s", ge=0.2)
    ] = 5.0
    repeat: Annotated[
        float, doc("Offers are repeated on the bus so often; three missed end one.", "s", ge=0.2)
    ] = 10.0
    fetch_timeout: Annotated[
        float, doc("How long the transfer of one card may take in all.", "s", gt=0)
    ] = 120.0
    least_rate: Annotated[
        int,
        doc("A transfer slower than this for `stall` is given up.", "bytes/s", ge=0),
    ] = 16 << 10
    stall: Annotated[float, doc("See `least_rate`.", "s", gt=0)] = 10.0
    max_card_bytes: Annotated[
        int, doc("The largest card that is fetched.", "bytes", ge=1 << 10)
    ] = 256 << 20
    disk_budget: Annotated[
        int, doc("What cards of other authors may take of the disk.", "bytes", ge=0)
    ] = 4 << 30
    max_peers: Annotated[int, doc("Peers that are known at a time.", ge=1, le=4096)] = 64
    max_cards: Annotated[int, doc("Cards that are heeded of each peer.", ge=1, le=4096)] = 256
    fetches: Annotated[int, doc("Cards fetched at a time.", ge=1, le=64)] = 4
    serves: Annotated[int, doc("Cards served at a time.", ge=1, le=256)] = 16
    serves_each: Annotated[
        int,
        doc("Cards served to one peer at a time: one certificate, or one address.", ge=1, le=256),
    ] = 4
    egress: Annotated[
        int, doc("What all peers together may draw; 0: no limit.", "bytes/s", ge=0)
    ] = 0
    ingress: Annotated[
        int, doc("What is drawn from all peers together; 0: no limit.", "bytes/s", ge=0)
    ] = 0

    def __post_init__(self) -> None:
        if self.node is not None and re.fullmatch(NODE, self.node) is None:
            raise ValueError(f"node must match {NODE}, not {self.node!r}")
        for peer in self.peers:
            found = PEER.fullmatch(peer)
            if found is None or not 0 < int(found["port"]) < 1 << 16:
                raise ValueError(f"a peer is HOST:PORT or NODE@HOST:PORT, not {peer!r}")
