"""The door of a broker on tcp: keys come in, are told apart, and are shown out when revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from bus import security
from bus.access.gate import Gate, cut, sender
from bus.access.keys import Ring
from bus.access.rights import Grant
from bus.seldom import Seldom, shown
from bus.sockets import Known

__all__ = ["Door"]

LOOK = 1.0
"""Seconds between two looks at the keys: so long one that was revoked stays at most."""
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
        self._authenticator = security.Authenticator(context, self.ring.admitted)
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Before a socket is bound: whoever connects needs a key."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._pair
        if socket.type == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_MANUAL, 1)

    def listeners(self, socket: zmq.Socket[bytes]) -> Gate:
        """The egress, where every key hears what it may."""
        self._gate = Gate(socket, self.ring.grants, self.ring.put_out)
        return self._gate

    def speakers(
        self,
        socket: zmq.Socket[bytes],
        handle: Callable[[list[bytes], Grant], None],
        *,
        attachments: bool = False,
    ) -> Known:
        """A socket whose messages come with what the key may do that sent them."""

        def handled(frame: Any, message: list[bytes]) -> None:
            name = sender(frame)
            grant = self.ring.grants.get(name)
            if grant is not None:
                handle(message, grant)
            else:
                self._refusals.warning("refused a message of %s: its key was revoked", shown(name))
                cut(frame)

        return Known(socket, handled, attachments=attachments)

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
