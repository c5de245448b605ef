"""Where this machine can be reached, and which addresses told by others are worth a try."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

__all__ = ["Interface", "interfaces", "ordered", "reachable", "usable"]

_FLAGS: Final = Path("/proc/net/if_inet6")
_UNUSABLE: Final = 0x01 | 0x08 | 0x20 | 0x40
"""IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE (linux/if_addr.h): of
outgoing connections alone, refused by the network, on the way out, or not yet ours."""


@dataclass(frozen=True)
class Interface:
    """A network interface that is up, plugged in, and has addresses."""

    name: str
    """`eth0`."""
    index: int
    """The kernel's number of it, the scope of its link-local addresses."""
    four: tuple[str, ...]
    """IPv4 addresses."""
    six: tuple[str, ...]
    """IPv6 addresses; a link-local one has its scope: `fe80::1%eth0`."""
    multicast: bool
    """Whether multicast can be sent through it."""


def interfaces(*, loopback: bool = False) -> tuple[Interface, ...]:
    """The interfaces that others can reach, or with `loopback` those that only this machine can.

    Left out: what is down or unplugged, and IPv6 addresses that are temporary, deprecated, or not
    yet (or never to be) this machine's. Takes well under a millisecond.
    """
    states = psutil.net_if_stats()
    doubtful = _doubtful()
    found = []
    for name, entries in sorted(psutil.net_if_addrs().items()):
        state = states.get(name)
        if state is None or not state.isup:
            continue
        flags = state.flags.split(",")
        if "up" in flags and "running" not in flags:  # no carrier
            continue
        four = [e.address for e in entries if e.family == socket.AF_INET]
        six = [
            e.address
            if "%" in e.address or not _is_link_local(e.address)
            else f"{e.address}%{name}"
            for e in entries
            if e.family == socket.AF_INET6 and (name, _bare(e.address)) not in doubtful
        ]
        # The flag is missing on some systems; there the addresses tell.
        is_loopback = "loopback" in flags or all(_is_loopback(a) for a in (*four, *six))
        if is_loopback != loopback or not (four or six):
            continue
        with contextlib.suppress(OSError):  # it went away meanwhile
            found.append(
                Interface(
                    name,
                    socket.if_nametoindex(name),
                    ordered(four),
                    ordered(six),
                    "multicast" in flags or is_loopback,
                )
            )
    return tuple(found)


def reachable(found: Sequence[Interface]) -> tuple[str, ...]:
    """The addresses of these interfaces, in the order of `ordered`."""
    return ordered({address for one in found for address in (*one.four, *one.six)})


def ordered(addresses: Iterable[str]) -> tuple[str, ...]:
    """Global ones before link-local ones, IPv4 before IPv6, then by number."""
    return tuple(sorted(addresses, key=_order))


def usable(address: str, *, loopback: bool) -> str | None:
    """An address told by another, as it is to be tried, or None where that is of no use.

    Of no use are nonsense, multicast, broadcast, unspecified and reserved addresses, IPv4 in the
    clothes of IPv6, link-local IPv6 without a scope that exists here, and loopback addresses,
    unless `loopback`: then nothing else is of use.
    """
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return None
    if given.is_loopback != loopback or given.is_multicast or given.is_unspecified:
        return None
    if isinstance(given, ipaddress.IPv4Address):
        return None if given.is_reserved or given.packed[0] == 0 else str(given)
    if given.ipv4_mapped or given.sixtofour or given.teredo or given.is_site_local:
        return None
    if given.packed[:12] == bytes(12) and not given.is_loopback:  # the long-dead `::1.2.3.4`
        return None
    if not given.is_link_local:
        return None if given.scope_id else str(given)
    scope = _scope(given.scope_id)
    return None if scope is None else f"{_bare(str(given))}%{scope}"


def _scope(given: str | None) -> str | None:
    """The interface's name from its name or number; None where there is none."""
    if not given:
        return None
    with contextlib.suppress(OSError, OverflowError):
        if re.fullmatch(r"[0-9]{1,9}", given):
            return socket.if_indextoname(int(given))
        socket.if_nametoindex(given)
        return given
    return None


def _order(address: str) -> tuple[bool, int, bytes, str]:
    parsed = ipaddress.ip_address(address)
    return (parsed.is_link_local, parsed.version, parsed.packed, address)


def _bare(address: str) -> str:
    """Without scope, in the one way to write it."""
    return str(ipaddress.ip_address(address.partition("%")[0]))


def _is_link_local(address: str) -> bool:
    return ipaddress.ip_address(address).is_link_local


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _doubtful() -> set[tuple[str, str]]:
    """(interface, address) of the IPv6 addresses that are not to be told; Linux alone says."""
    try:
        lines = _FLAGS.read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    doubtful = set()
    for line in lines:
        digits, _index, _length, _scope, flags, name = line.split()
        if int(flags, 16) & _UNUSABLE:
            doubtful.add((name, str(ipaddress.IPv6Address(bytes.fromhex(digits)))))
    return doubtful
