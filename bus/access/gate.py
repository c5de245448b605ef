"""The broker's side of access over tcp: who sent a message, and what each subscriber may hear.

Egress is an XPUB in manual mode: a subscription takes effect only when the broker says so, and may
take effect as narrower ones. ZeroMQ lets that be said only of the subscription received last, so
each is decided at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import zmq

from bus import protocol
from bus.access.callers import Callers
from bus.access.rights import Grant
from bus.connected import Connection, shut
from bus.errors import NotPermitted
from bus.security import SERIAL
from bus.seldom import Seldom, shown
from bus.sockets import NOW, Drained

__all__ = ["Gate"]

MOST = 10_000
"""Topics that one connection may have asked for."""
LONGEST = 512
"""Bytes of a topic that anybody may ask for."""
_log = logging.getLogger(__name__)


class _Listener:
    """One connection: what it asked for, what of it is in effect, and what was refused."""

    def __init__(self, serial: str, name: str) -> None:
        self.serial = serial
        self.name = name
        self.asked: set[bytes] = set()
        self.live: set[bytes] = set()
        self.refused: set[bytes] = set()


class Gate(Drained):
    """The egress socket, in manual mode: subscriptions are granted as `grants` say, by key.

    `misused` hears the name of a key whose client spoke what no subscriber speaks.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        callers: Callers,
        grants: Mapping[str, Grant],
        misused: Callable[[str], None],
    ) -> None:
        self._callers = callers
        self._grants = grants
        self._misused = misused
        self._listeners: dict[int, _Listener] = {}
        """By descriptor; a new connection with an old number has another serial."""
        self._refusals = Seldom(_log)
        self._in_order = True
        callers.connected.ended.append(self._ended)
        super().__init__(socket, self._heard)

    def _receive(self) -> list[Any]:
        # One frame at a time: what follows a frame that says there is more may be another's.
        try:
            return [self._receive_part(NOW, False)]
        except zmq.Again:
            self._in_order = True
            raise

    def _readable(self) -> bool:
        found = super()._readable()
        if not found:
            self._in_order = True
        return found

    def _heard(self, message: list[Any]) -> None:
        (frame,) = message
        name, said = self._callers.caller(frame), frame.bytes
        if said[:1] not in (b"\0", b"\1"):
            # libzmq 4.3 counts connections only for subscriptions: after anything else it takes
            # each for its successor's, until all that waits is read. Those must not take effect.
            self._in_order = False
            if name:
                self._refusals.warning("%r sent on egress, where one subscribes: put out", name)
                self._callers.cut(frame)
                self._misused(name)
        elif not name:
            return  # one too many; or the end of one: libzmq has removed what it had
        elif not self._in_order:
            self._callers.cut(frame)  # it comes back, and subscribes again
        else:
            grant = self._grants.get(name)
            listener = self._listener(frame, name)
            if grant is None or listener is None:
                self._callers.cut(frame)
            elif said[:1] == b"\1":
                self._subscribe(listener, grant, said[1:], frame)
            else:
                self._unsubscribe(listener, grant, said[1:])

    def _listener(self, frame: Any, name: str) -> _Listener | None:
        try:
            descriptor, serial = int(frame.get(zmq.SRCFD)), str(frame.get(SERIAL))
        except zmq.ZMQError:
            return None
        found = self._listeners.get(descriptor)
        if found is None or found.serial != serial:
            found = self._listeners[descriptor] = _Listener(serial, name)
        return found

    def _subscribe(self, listener: _Listener, grant: Grant, topic: bytes, frame: Any) -> None:
        if len(topic) > LONGEST or len(listener.asked) + len(listener.refused) >= MOST:
            self._refusals.warning("%r asks for too much on egress: cut off", listener.name)
            self._callers.cut(frame)
        elif topic.startswith(protocol.ECHO):
            listener.asked.add(topic)
            self._set(zmq.SUBSCRIBE, topic)
            self.send([topic, self._answer(listener, grant)])
        elif topic.startswith(protocol.PING):
            listener.asked.add(topic)
            self._set(zmq.SUBSCRIBE, topic)
        elif wanted := grant.narrowed(topic):
            listener.asked.add(topic)
            for one in wanted:
                if one not in listener.live:
                    listener.live.add(one)
                    self._set(zmq.SUBSCRIBE, one)
        else:
            listener.refused.add(topic)
            self._refusals.warning(
                "refused %r a subscription to %s", listener.name, shown(topic.decode("latin-1"))
            )

    def _unsubscribe(self, listener: _Listener, grant: Grant, topic: bytes) -> None:
        if topic.startswith((protocol.ECHO, protocol.PING)):
            listener.asked.discard(topic)
            self._set(zmq.UNSUBSCRIBE, topic)
            return
        listener.refused.discard(topic)
        if topic not in listener.asked:
            return
        listener.asked.discard(topic)
        for one in grant.narrowed(topic):
            # A wider one that still stands may stand for this one, too.
            wider = (one[:size] for size in range(len(one) + 1))
            if one in listener.live and not any(
                each in listener.asked and one in grant.narrowed(each) for each in wider
            ):
                listener.live.discard(one)
                self._set(zmq.UNSUBSCRIBE, one)

    def _set(self, option: int, topic: bytes) -> None:
        self.socket.setsockopt(option, topic)

    @staticmethod
    def _answer(listener: _Listener, grant: Grant) -> bytes:
        """Nothing where all that was asked for is live; else an error that names what is not."""
        if not listener.refused:
            return b""
        topics = sorted(topic.decode("utf-8", "replace") for topic in listener.refused)
        message = f"{grant} hears what is for its role and for itself"
        return protocol.encode(protocol.Unheard(NotPermitted.code, message, topics[:100]))

    def _ended(self, connection: Connection) -> None:
        self._listeners.pop(connection.descriptor, None)

    def end(self, names: Collection[str]) -> None:
        """End the connections of these keys: what they were granted is granted no more."""
        for descriptor, listener in list(self._listeners.items()):
            if listener.name in names:
                del self._listeners[descriptor]
                shut(descriptor)

    @property
    def listening(self) -> Sequence[str]:
        """The keys whose subscribers were heard of, one entry a connection."""
        return [listener.name for listener in self._listeners.values()]
