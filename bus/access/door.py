"""The door of a broker on tcp: keys come in, are told apart, and are shown out when revoked."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import zmq

from bus import security
from bus.access.callers import Callers
from bus.access.gate import Gate
from bus.access.keys import Ring
from bus.access.rights import Grant
from bus.connected import Connected, Connection
from bus.security import ADMITTED, NOT_NOW, STRANGER
from bus.seldom import Seldom, shown
from bus.sockets import Known

__all__ = ["Door"]

LOOK = 1.0
"""Seconds between two looks at the keys: so long one that was revoked stays at most."""
HANDSHAKE = 10_000
"""Milliseconds that a connection has to be admitted. One that may not come in now is not told so by
libzmq: it waits for as long, and then comes again."""
SPARE = 64
"""Descriptors of this process that are not for connections."""
_log = logging.getLogger(__name__)


class Door:
    """Made before anything is bound; `withdraw` hears whose rights are others now.

    Raises `InvalidKey`, `InvalidRoles`, `InsecureFolder`.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Path,
        withdraw: Callable[[frozenset[str]], None],
    ) -> None:
        security.make_broker_keys(keys)
        self._pair = security.read_pair(keys / "broker.key_secret")
        self._withdraw = withdraw
        self._gate: Gate | None = None
        self._refusals = Seldom(_log)
        self.ring = Ring(keys, self._changed)
        self.numbers = count(1)
        """Every connection, and every admission, takes the next one."""
        self._callers: dict[str, Callers] = {}
        self._authenticator = security.Authenticator(context, self._judge, self.numbers)
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def guard(self, socket: zmq.Socket[bytes], place: str, connected: Connected) -> None:
        """Before a socket is bound: whoever connects needs a key. `place` names it, for people."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._pair
        socket.setsockopt(zmq.ZAP_DOMAIN, place.encode())
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
        if socket.type == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_MANUAL, 1)
        connected.opened.append(self._opened)
        self._callers[place] = Callers(place, connected, self.ring.grants)

    def listeners(self, socket: zmq.Socket[bytes], place: str) -> Gate:
        """The egress, where every key hears what it may."""
        self._gate = Gate(socket, self._callers[place], self.ring.grants, self.ring.put_out)
        return self._gate

    def speakers(
        self,
        socket: zmq.Socket[bytes],
        place: str,
        handle: Callable[[list[bytes], Grant], None],
        *,
        attachments: bool = False,
    ) -> Known:
        """A socket whose messages come with what the key may do that sent them."""
        callers = self._callers[place]

        def handled(frame: Any, message: list[bytes]) -> None:
            name = callers.caller(frame)
            grant = self.ring.grants.get(name)
            if grant is not None:
                handle(message, grant)
            elif name:
                self._refusals.warning("refused a message of %s: its key was revoked", shown(name))
                callers.cut(frame)

        return Known(socket, handled, attachments=attachments)

    def _judge(self, public: bytes, place: str) -> tuple[bytes, str]:
        """The status of a client that wants to come in; and its key's name, or why not."""
        for callers in self._callers.values():
            callers.connected.catch_up()
        name = self.ring.admitted(public)
        if name is None:
            return STRANGER, "its key is not listed"
        why = self._callers[place].full(name)
        return (NOT_NOW, why) if why else (ADMITTED, name)

    def _opened(self, _: Connection) -> None:
        """Where descriptors are short, who says nothing makes room."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if sum(len(each.connected.open) for each in self._callers.values()) <= most - SPARE:
            return
        silent = [found for each in self._callers.values() if (found := each.silent())]
        if silent:
            min(silent, key=lambda each: each.number).end()
            self._refusals.warning(
                "ended the oldest connection that never said anything: descriptors are short"
            )

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        self.ring.look()

    def _changed(self, names: frozenset[str]) -> None:
        if self._gate is not None:
            self._gate.end(names)
        self._withdraw(names)

    def close(self) -> None:
        """Admit nobody any more."""
        self._timer.cancel()
        self._authenticator.close()
