"""What a node tells by mDNS of itself, and what is believed of what others tell.

Nothing that comes from the network is trusted: a sighting says where somebody claims to be found,
and whose key they claim to have. Who it is, TLS and signatures prove.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from zeroconf import (
    DNSAddress,
    DNSCache,
    DNSRecord,
    DNSService,
    DNSText,
    ServiceInfo,
    current_time_millis,
)

from services.federation.addresses import ordered, usable
from services.runtime.settings_federation import NODE

__all__ = [
    "MAX_ADDRESSES",
    "TYPE",
    "Records",
    "Refused",
    "Sighting",
    "instance_of",
    "is_instance",
    "read",
    "records",
    "text_of",
]

TYPE: Final = "_consonance._tcp.local."
"""The DNS-SD service type of a node."""

MAX_ADDRESSES: Final = 16
"""Of each node, the first in `reachable`'s order that are of use."""

_MAX_TEXT: Final = 512  # bytes; ours have about 130
_MAX_TTL: Final = 120.0  # seconds; who claims longer is asked again nevertheless
_A, _TXT, _AAAA, _SRV, _IN = 1, 16, 28, 33, 1
_INSTANCE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NODE: Final = re.compile(NODE)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{32}")
_Record = TypeVar("_Record", bound=DNSRecord)


@dataclass(frozen=True)
class Sighting:
    """A node as it presents itself."""

    node: str
    """Its name."""
    fingerprint: str
    """32 hex digits of the key that it claims."""
    addresses: tuple[str, ...]
    """Where it may be reached: IPv4 and IPv6, the latter with a scope where it needs one."""
    port: int
    """1 to 65535."""
    tls: bool
    """Whether it speaks TLS."""


@dataclass(frozen=True)
class Records:
    """The newest records of one service instance that have not expired."""

    service: DNSService
    text: DNSText
    addresses: tuple[DNSAddress, ...]

    def remaining(self) -> float:
        """The part of its time that is left until the host has to be heard of again: 0 to 1."""
        lifetime = min(float(self.service.ttl), _MAX_TTL)
        age = (current_time_millis() - self.service.created) / 1e3
        return max(0.0, 1.0 - age / lifetime) if lifetime else 0.0


class Refused(Exception):
    """What a service tells cannot be a node of this federation; the text says why."""


def instance_of(node: str, fingerprint: str) -> str:
    """The name of a node's service: its own, where that fits a DNS label of 63 bytes without dots.

    Otherwise it is made to fit, and told apart from others by 8 digits of the fingerprint.
    """
    if _INSTANCE.fullmatch(node):
        return node
    return f"{node.replace('.', '-')[:54]}-{fingerprint[:8]}"


def is_instance(name: str) -> bool:
    """Whether a node's service can have that full name."""
    label, _, rest = name.partition(".")
    return rest == TYPE and _INSTANCE.fullmatch(label) is not None


def text_of(node: str, fingerprint: str, tls: bool) -> dict[str, str]:
    """The TXT record of a node."""
    return {"node": node, "key": fingerprint, "v": "1", "tls": str(int(tls))}


def records(cache: DNSCache, name: str) -> Records | None:
    """What is known of the service of that full name; None while something is missing."""
    service = _newest(cache.async_all_by_details(name, _SRV, _IN), DNSService)
    text = _newest(cache.async_all_by_details(name, _TXT, _IN), DNSText)
    if service is None or text is None:
        return None
    now = current_time_millis()
    addresses = tuple(
        record
        for kind in (_A, _AAAA)
        for record in cache.async_all_by_details(service.server, kind, _IN)
        if isinstance(record, DNSAddress) and not record.is_expired(now)
    )
    found = Records(service, text, addresses)
    return found if addresses and found.remaining() else None


def read(name: str, found: Records, *, loopback: bool) -> Sighting:
    """The sighting in these records of the service of that full name.

    Its addresses may be none: those of no use are left out, see `addresses.usable`.
    Raises `Refused`.
    """
    node, fingerprint, tls = _read_text(name, found.text.text)
    if not 0 < found.service.port < 1 << 16:
        raise Refused("its port is none")
    if name != f"{instance_of(node, fingerprint)}.{TYPE}":
        raise Refused("its service bears another name than it")
    told = (_address_of(record) for record in found.addresses)
    good = {address for one in told if (address := usable(one, loopback=loopback))}
    addresses = ordered(good)[:MAX_ADDRESSES]
    return Sighting(node, fingerprint, addresses, found.service.port, tls)


def _read_text(name: str, text: bytes) -> tuple[str, str, bool]:
    """(node, fingerprint, TLS) of a TXT record; raises `Refused`."""
    if len(text) > _MAX_TEXT:
        raise Refused(f"its TXT record has {len(text)} bytes")
    told = _properties(name, text)
    if told.get("v") != "1":
        raise Refused("its TXT record is of no version that is known here")
    node, fingerprint, tls = told.get("node", ""), told.get("key", ""), told.get("tls")
    if _NODE.fullmatch(node) is None:
        raise Refused("its TXT record has no name that a node can have")
    if _FINGERPRINT.fullmatch(fingerprint) is None:
        raise Refused("its TXT record has no fingerprint")
    if tls not in {"0", "1"}:
        raise Refused("its TXT record does not say whether it speaks TLS")
    return node, fingerprint, tls == "1"


def _properties(name: str, text: bytes) -> Mapping[str, str]:
    try:
        return {
            key.decode("ascii"): value.decode("ascii")
            for key, value in ServiceInfo(TYPE, name, properties=text).properties.items()
            if value is not None
        }
    except UnicodeDecodeError:
        raise Refused("its TXT record is not ASCII") from None


def _address_of(record: DNSAddress) -> str:
    """As text, with the number of the interface it was heard on where it has one."""
    try:
        address = ipaddress.ip_address(record.address)
    except ValueError:
        return ""
    scoped = address.is_link_local and address.version == 6 and record.scope_id
    return f"{address}%{record.scope_id}" if scoped else str(address)


def _newest(found: Iterable[DNSRecord], kind: type[_Record]) -> _Record | None:
    """The record heard last; zeroconf dates one that is replaced anew, for a last second."""
    now = current_time_millis()
    alive = [record for record in found if isinstance(record, kind) and not record.is_expired(now)]
    return max(alive, key=lambda one: (one.created, one.get_remaining_ttl(now)), default=None)
