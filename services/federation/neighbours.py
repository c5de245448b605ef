"""The nodes that mDNS tells of: which are believed, for how long, and how many at most."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from zeroconf import (
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    Zeroconf,
    current_time_millis,
)

from services.federation.sightings import (
    TYPE,
    Records,
    Refused,
    Sighting,
    instance_of,
    is_instance,
    read,
    records,
)

__all__ = ["Neighbours"]

PAUSE: Final = 1.0
"""Seconds until a question is repeated for the first time."""

_TRIES: Final = 3
_COMPLAINTS: Final = 64
_FORGIVEN: Final = 600.0  # seconds until the same complaint is made again
_FLAGS_QUERY: Final = 0
_PTR, _TXT, _SRV, _IN = 12, 16, 33, 1


@dataclass
class _Instance:
    """A service that is or may become a sighting."""

    sighting: Sighting | None = None
    rival: str = ""
    """The fingerprint of the other key with which it claims this node's name."""
    asked: int = 0
    """Questions since it was last heard of."""
    due: float = 0.0
    """The clock's time from which it may be asked again."""

    def postpone(self, now: float) -> None:
        """It is asked again after 1, 2, 4, then every 8 `PAUSE`s."""
        self.due = now + PAUSE * min(1 << self.asked, 8)
        self.asked += 1


class Neighbours:
    """Turns the records in zeroconf's cache into sightings, and notices their end.

    There is no task or timer to a service: records are looked at when zeroconf tells that they
    changed, and all of them in `sweep`. What is kept is bounded by `limit` sightings and as many
    services whose records are incomplete.
    """

    def __init__(
        self,
        node: str,
        fingerprint: str,
        port: int,
        *,
        loopback: bool,
        limit: int,
        found: Callable[[Sighting], None],
        lost: Callable[[str], None],
        contested: Callable[[str], None],
        log: Any,
    ) -> None:
        self._node = node
        self._fingerprint = fingerprint
        self._port = port
        self._loopback = loopback
        self._limit = limit
        self._found = found
        self._lost = lost
        self._contested = contested
        self._log = log
        self._name = f"{instance_of(node, fingerprint)}.{TYPE}"
        self._known: dict[str, _Instance] = {}
        self._holders: dict[str, str] = {}  # which service a node's sighting comes from
        self._crowded = False  # there are more than are heeded
        self._complaints: set[tuple[str, str]] = set()
        self._forgiven_at = 0.0
        self.own: frozenset[str] = frozenset()
        """The addresses of this machine: with this node's port, nobody else is found there."""

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """The nodes that are known now."""
        return tuple(known.sighting for known in self._known.values() if known.sighting is not None)

    @property
    def contested(self) -> bool:
        """Whether a node with another key claims this node's name."""
        return any(known.rival for known in self._known.values())

    def consider(self, zeroconf: Zeroconf, name: str) -> None:
        """Records of the service of that full name have come or changed."""
        known = self._known.get(name)
        if known is not None:
            self._look(zeroconf, name, known)
            return
        if not is_instance(name):
            self.complain("a service is refused", name, "no node can have that name")
            return
        known = self._known[name] = _Instance()
        self._look(zeroconf, name, known)
        if known.sighting is None and len(self._known) - len(self._holders) > self._limit:
            self._known.pop(name, None)  # when its records come, it is considered again

    def forget(self, name: str) -> None:
        """The service of that full name is gone, or not to be believed any more."""
        known = self._known.pop(name, None)
        if known is not None and known.sighting is not None:
            del self._holders[known.sighting.node]
            self._lost(known.sighting.node)

    def clear(self) -> None:
        """Forget all, and tell nobody."""
        self._known.clear()
        self._holders.clear()

    def sweep(self, zeroconf: Zeroconf, now: float) -> None:
        """Ask for what is missing or half-way to its end; what stays silent is lost."""
        silent = set()
        for name, known in tuple(self._known.items()):
            found = self._look(zeroconf, name, known)
            if self._known.get(name) is not known:
                continue
            left = found.remaining() if found is not None else 0.0
            if left > 0.5:
                known.asked, known.due = 0, 0.0
            elif now >= known.due:
                if not left and known.asked >= _TRIES:
                    self.forget(name)
                    silent.add(name)
                else:
                    _ask(zeroconf, name)
                    known.postpone(now)
        if silent:
            _drop(zeroconf, silent)
        if self._crowded and len(self._known) < self._limit:
            self._crowded = False
            self._revisit(zeroconf)

    def seek(self, zeroconf: Zeroconf) -> None:
        """Ask who is there besides the nodes that are known: a network may have been mended."""
        self._revisit(zeroconf)
        now = current_time_millis()
        question = DNSOutgoing(_FLAGS_QUERY)
        question.add_question(DNSQuestion(TYPE, _PTR, _IN))
        for pointer in _pointers(zeroconf):
            known = self._known.get(pointer.alias.lower())
            if known is not None and known.sighting is not None:
                question.add_answer_at_time(pointer, now)
        zeroconf.async_send(question)

    def _revisit(self, zeroconf: Zeroconf) -> None:
        """Look again at services that were left aside; at some of them, where they are many."""
        names = [pointer.alias.lower() for pointer in _pointers(zeroconf)]
        for name in random.sample(names, min(len(names), 4 * self._limit)):
            self.consider(zeroconf, name)

    def complain(self, event: str, who: str, why: str) -> None:
        """Log that once, and no flood of it: what comes from the network may be endless."""
        now = time.monotonic()
        if now >= self._forgiven_at:
            self._complaints.clear()
            self._forgiven_at = now + _FORGIVEN
        if (who, why) in self._complaints or len(self._complaints) > _COMPLAINTS:
            return
        self._complaints.add((who, why))
        self._log.warning(event, who=who[:100], why=why)
        if len(self._complaints) > _COMPLAINTS:
            self._log.warning("more complaints of discovery are left out", seconds=_FORGIVEN)

    def _look(self, zeroconf: Zeroconf, name: str, known: _Instance) -> Records | None:
        """Make of a service's records what they say now; returns them where they are complete."""
        found = records(zeroconf.cache, name)
        if found is None:
            return None
        try:
            self._believe(name, known, read(name, found, loopback=self._loopback))
        except Refused as why:
            self.forget(name)
            self.complain("a service is refused", name, str(why))
            return None
        return found

    def _believe(self, name: str, known: _Instance, sighting: Sighting) -> None:
        if sighting.fingerprint == self._fingerprint:
            if name != self._name:
                raise Refused("it claims this node's own key")
            self.forget(name)
            return
        if sighting.node == self._node:
            before, known.rival = known.rival, sighting.fingerprint
            if before != known.rival:
                self._contested(known.rival)
            return
        addresses = tuple(
            a for a in sighting.addresses if sighting.port != self._port or a not in self.own
        )
        if not addresses:
            raise Refused("none of its addresses is of use here")
        self._adopt(name, known, replace(sighting, addresses=addresses))

    def _adopt(self, name: str, known: _Instance, sighting: Sighting) -> None:
        before = known.sighting
        if sighting == before:
            return
        if self._holders.get(sighting.node, name) != name:
            raise Refused(f"there is another node {sighting.node} already")
        if before is None and len(self._holders) >= self._limit:
            del self._known[name]
            self._crowded = True
            why = f"no more than {self._limit} are heeded"
            self.complain("too many nodes are announced", TYPE, why)
            return
        if before is not None and before.node != sighting.node:
            del self._holders[before.node]
            self._lost(before.node)
        self._holders[sighting.node] = name
        known.sighting = sighting
        self._found(sighting)


def _pointers(zeroconf: Zeroconf) -> list[DNSPointer]:
    found = zeroconf.cache.async_all_by_details(TYPE, _PTR, _IN)
    return [record for record in found if isinstance(record, DNSPointer)]


def _drop(zeroconf: Zeroconf, names: set[str]) -> None:
    """Forget the records of these services: if they come back, that is news."""
    old: list[DNSRecord] = [one for one in _pointers(zeroconf) if one.alias.lower() in names]
    for name in names:
        old += zeroconf.cache.async_entries_with_name(name)
    zeroconf.cache.async_remove_records(old)


def _ask(zeroconf: Zeroconf, name: str) -> None:
    """Ask for the records of a service; the answer brings the addresses of its host along."""
    question = DNSOutgoing(_FLAGS_QUERY)
    question.add_question(DNSQuestion(name, _SRV, _IN))
    question.add_question(DNSQuestion(name, _TXT, _IN))
    zeroconf.async_send(question)
