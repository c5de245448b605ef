"""Who speaks over the connections of one socket, and how many of them each key has.

libzmq tells of a connection by its descriptor, and of a key by its messages: whose a connection is
shows when it first says something. From then on it counts; one that says nothing is of no use.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import zmq

from bus.access.rights import Grant
from bus.connected import Connected, Connection
from bus.security import SERIAL
from bus.seldom import Seldom, shown

__all__ = ["Callers"]

REFUSED = 1_000
"""Connections beyond their key's number of which it is remembered that nothing is heeded."""
_log = logging.getLogger(__name__)


class Callers:
    """The connections of a socket, by who speaks over them; `place` names it, for people."""

    def __init__(self, place: str, connected: Connected, grants: Mapping[str, Grant]) -> None:
        self.connected = connected
        self._place = place
        self._grants = grants
        self._speaking: dict[str, Connection] = {}
        """By the serial that their messages bear."""
        self._serials: dict[Connection, str] = {}
        self._counts: Counter[str] = Counter()
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._refusals = Seldom(_log)
        connected.ended.append(self._ended)

    def full(self, name: str) -> str:
        """Why a key may have no further connection; nothing where it may."""
        grant = self._grants.get(name)
        if grant is None or self._counts[name] < grant.role.connections:
            return ""
        return (
            f"the key {shown(name)} has {self._counts[name]} connections to {self._place},"
            " as many as its role may (connections)"
        )

    def caller(self, frame: Any) -> str:
        """The name of the key of a message; nothing where it is not to be heeded."""
        try:
            serial = frame.get(SERIAL)
        except zmq.ZMQError:  # libzmq's own, where a connection has ended
            return ""
        found = self._speaking.get(serial)
        if found is None:
            return self._first(frame, serial)
        found.spoke = True
        return found.key

    def _first(self, frame: Any, serial: str) -> str:
        if serial in self._refused:
            return ""
        name = str(frame.get("User-Id"))
        self.connected.catch_up()
        found = self.connected.open.get(int(frame.get(zmq.SRCFD)))
        if found is None or found.key or found.number > int(serial):
            return name  # it has ended since, and its descriptor may be another's
        if why := self.full(name):
            self._refusals.warning("ended a connection: %s", why)
            self._refused[serial] = None
            if len(self._refused) > REFUSED:
                self._refused.popitem(last=False)
            found.end()
            return ""
        found.key, found.spoke = name, True
        self._speaking[serial], self._serials[found] = found, serial
        self._counts[name] += 1
        return name

    def cut(self, frame: Any) -> None:
        """End the connection over which this came, if it is still there."""
        with contextlib.suppress(zmq.ZMQError):
            found = self._speaking.get(frame.get(SERIAL))
            if found is not None:
                found.end()

    def silent(self) -> Connection | None:
        """The oldest connection that never said anything; None where there is none."""
        found = self.connected.open.values()
        return next((each for each in found if not each.key and not each.cut), None)

    def _ended(self, connection: Connection) -> None:
        serial = self._serials.pop(connection, None)
        if serial is not None:
            del self._speaking[serial]
            self._counts[connection.key] -= 1
            if not self._counts[connection.key]:
                del self._counts[connection.key]
