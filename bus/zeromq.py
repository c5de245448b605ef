"""The link over ZeroMQ: XPUB to ingress, SUB from egress, DEALER to the journal.

The first is an XPUB, not a PUB: on the wire the same, but it sees the broker's subscription
arrive, and so knows when what it sends is heard.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from bus import protocol
from bus.burst import Burst
from bus.errors import BusError, Closed, NotPermitted, Refused, TooLarge, Unreachable, refusal
from bus.link import Link
from bus.security import KeyPair
from bus.signal import Signal
from bus.sockets import PARTS, Drained, is_shed
from bus.urls import Endpoints

__all__ = ["ZeroMQLink"]

RESEND = 5.0
"""Seconds after which a request without an answer is sent again over the same connection."""
LONGEST_PAUSE = 2.0
"""Seconds after which a request that was put off, again and again, is sent at the latest."""
MAX_REQUEST = 48 * 2**20
LINGER = 0.5
"""Seconds for which what was sent may still leave when the link is closed."""
_log = logging.getLogger(__name__)


class _Pending:
    """A request that waits for its answer."""

    def __init__(self, frames: list[bytes], answer: asyncio.Future[bytes]) -> None:
        self.frames = frames
        self.answer = answer
        self.sent_at: float | None = None
        self.holders = 0
        self.refusal: Refused | None = None
        """Why it was put off, if it was."""
        self.put_off = 0
        """How often."""


class ZeroMQLink(Link):
    """Made inside the loop that uses it; reconnects by itself."""

    def __init__(
        self,
        url: str,
        endpoints: Endpoints,
        *,
        name: str,
        pair: KeyPair | None = None,
        server: bytes | None = None,
        receive_queue: int = 50_000,
    ) -> None:
        self.url = url
        self._nonce = secrets.token_hex(8)
        self._gait = 0.75 + secrets.randbelow(500) / 1000
        """By what its pauses differ from others': who was put off with them comes apart."""
        self._closed = False
        self._refused = False
        self._secured = endpoints.secured
        self._put_off = False
        """Whether the broker was there and ended the connection before it stood."""
        self.live = False
        self._connected = False
        self._ever = False
        self._ready = Signal()
        self._pending: dict[bytes, _Pending] = {}
        self._echoes: dict[bytes, asyncio.Future[protocol.Unheard | None]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        alive, dead = endpoints.heartbeat

        def make(kind: int) -> zmq.Socket[bytes]:
            socket = self._context.socket(kind)
            socket.linger = round(1000 * LINGER)
            socket.setsockopt(zmq.RECONNECT_IVL, 50)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
            socket.setsockopt(zmq.HEARTBEAT_IVL, alive)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, dead)
            if ":" in endpoints.ingress.removeprefix("tcp:").rpartition(":")[0]:
                socket.setsockopt(zmq.IPV6, 1)
            if pair is not None and server is not None:
                socket.curve_publickey, socket.curve_secretkey = pair
                socket.curve_serverkey = server
            return socket

        publisher = make(zmq.XPUB)
        publisher.setsockopt(zmq.SNDHWM, 10_000)
        publisher.setsockopt(zmq.XPUB_NODROP, 1)  # a full queue is told, not swallowed
        dealer = make(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, f"{name}-{self._nonce}".encode()[-255:])
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        subscriber = make(zmq.SUB)
        subscriber.setsockopt(zmq.RCVHWM, receive_queue)
        monitor = dealer.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        self._monitored = dealer
        self._monitor = Drained(monitor, self._happened)
        self._publisher = Drained(publisher, self._heard)
        self._burst = Burst(self._publisher)
        self._subscriber = Drained(subscriber, self._received, attachments=True)
        self._dealer = Drained(dealer, self._answered)
        publisher.connect(endpoints.ingress)
        subscriber.connect(endpoints.egress)
        dealer.connect(endpoints.journal)

    # live

    def send(self, message: Sequence[bytes]) -> bool:
        if self._closed:
            raise Closed("the bus is closed")
        return self.live and self._burst.send(message)

    def _heard(self, message: list[bytes]) -> None:
        self.live = message[0][:1] == b"\x01"
        self._ready.set()

    def _received(self, message: list[Any]) -> None:
        echo = self._echoes.pop(message[0], None) if self._echoes else None
        if echo is not None:
            if not echo.done():
                echo.set_result(_unheard(message[1]) if len(message) > 1 else None)
        elif len(message) > PARTS or (self._subscriber.pressure and is_shed(message)):
            self.shed += 1
        else:
            if len(message) > 1:
                message[1] = bytes(message[1])
            for place in range(2, len(message)):
                if isinstance(message[place], zmq.Frame):
                    message[place] = message[place].buffer.toreadonly()
            self.on_message(message)

    def subscribe(self, topic: str) -> None:
        if not self._closed:
            self._subscriber.socket.subscribe(topic.encode())
            self._subscriber.look()

    def unsubscribe(self, topic: str) -> None:
        if not self._closed:
            self._subscriber.socket.unsubscribe(topic.encode())
            self._subscriber.look()

    async def confirm(self, patience: float) -> protocol.Unheard | None:
        """Subscriptions on one pipe are in order: when the last is echoed, all are live."""
        if self._closed:
            raise Closed("the bus is closed")
        topic = protocol.ECHO + secrets.token_hex(8).encode()
        echo: asyncio.Future[protocol.Unheard | None] = asyncio.get_running_loop().create_future()
        self._echoes[topic] = echo
        self.subscribe(topic.decode())
        try:
            async with asyncio.timeout(patience):
                return await echo
        except TimeoutError as e:
            raise self._unreachable(f"no subscription became live within {patience:g} s") from e
        finally:
            self._echoes.pop(topic, None)
            self.unsubscribe(topic.decode())

    async def open(self, patience: float) -> None:
        """Return once all three connections carry; raises `NotPermitted`, `Unreachable`."""
        try:
            async with asyncio.timeout(patience):
                while not (self._connected and self.live):
                    if self._refused:
                        raise NotPermitted(f"the broker at {self.url} does not admit this key")
                    await self._ready.wait()
                    if self._closed:
                        raise Closed("the bus is closed")
        except TimeoutError as e:
            raise self._unreachable(f"no broker answered within {patience:g} s") from e

    def _unreachable(self, what: str) -> BusError:
        if self._closed:
            return Closed("the bus is closed")
        if self._refused:
            return NotPermitted(f"the broker at {self.url} does not admit this key")
        if self._put_off:
            return Unreachable(
                f"{what} at {self.url}: what is there ends the connection; perhaps it is another"
                " broker than the server key says, or this key has as many as its role may"
            )
        return Unreachable(f"{what} at {self.url}: is it running?")

    # the journal

    async def call(
        self, verb: str, body: bytes, patience: float, request: bytes | None = None
    ) -> bytes:
        if self._closed:
            raise Closed("the bus is closed")
        if len(body) > MAX_REQUEST:
            raise TooLarge(f"the request has {len(body)} bytes, at most {MAX_REQUEST} are taken")
        loop = asyncio.get_running_loop()
        request = request or self.new_request()
        frames = [request, verb.encode(), body]
        pending = self._pending.get(request)
        if pending is None:
            pending = self._pending[request] = _Pending(frames, loop.create_future())
        pending.frames = frames
        pending.holders += 1
        self._transmit(pending)
        if self._sweeper is None:
            self._sweeper = loop.call_later(1.0, self._sweep)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(pending.answer)
        except TimeoutError as e:
            if pending.refusal is not None:
                raise pending.refusal from e
            raise self._unreachable(f"no answer to {verb} within {patience:g} s") from e
        finally:
            pending.holders -= 1
            if not pending.holders and self._pending.get(request) is pending:
                del self._pending[request]
                pending.answer.cancel()

    def _transmit(self, pending: _Pending) -> None:
        loop = asyncio.get_running_loop()
        sent = self._connected and self._dealer.send(pending.frames)
        pending.sent_at = loop.time() if sent else None

    def _sweep(self) -> None:
        self._sweeper = None
        loop = asyncio.get_running_loop()
        for pending in list(self._pending.values()):
            waits = pending.frames[1] == b"lease"  # it may wait for long: that is its purpose
            if pending.sent_at is None or (not waits and loop.time() - pending.sent_at > RESEND):
                self._transmit(pending)
        if self._pending:
            self._sweeper = loop.call_later(1.0, self._sweep)

    def _answered(self, message: list[bytes]) -> None:
        if len(message) != 3:
            return
        name, status, body = message
        pending = self._pending.pop(name, None)
        if pending is None or pending.answer.done():
            if status == protocol.OK:
                self.on_stray(body)
            return
        if status == protocol.OK:
            pending.answer.set_result(body)
            return
        try:
            error = msgspec.json.decode(body, type=protocol.Error)
        except msgspec.DecodeError:
            error = protocol.Error("malformed", "the broker's answer cannot be read")
        found = refusal(error.code, error.message)
        if error.retry_after_ms is None:
            pending.answer.set_exception(found)
            return
        pending.refusal = found
        self._pending[name] = pending
        pause = error.retry_after_ms / 1000 * 2 ** min(pending.put_off, 8) * self._gait
        pending.put_off += 1
        loop = asyncio.get_running_loop()
        loop.call_later(min(max(pause, 0.01), LONGEST_PAUSE), self._ask_again, name, pending)

    def _ask_again(self, name: bytes, pending: _Pending) -> None:
        if self._pending.get(name) is pending and not pending.answer.done():
            self._transmit(pending)

    def _happened(self, message: list[bytes]) -> None:
        event: Any = parse_monitor_message(message)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._refused = self._put_off = False
            self.reconnects += self._ever
            self._connected = self._ever = True
            for pending in list(self._pending.values()):
                self._transmit(pending)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connected = False
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._put_off = self._secured
        self._ready.set()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._ready.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(Closed("the bus was closed"))
                pending.answer.exception()
        self._pending.clear()
        for echo in self._echoes.values():
            echo.cancel()
        await self._burst.aclose(LINGER)
        self._monitored.disable_monitor()
        self._monitor.close()
        for drained in (self._publisher, self._subscriber, self._dealer):
            drained.close()
        await asyncio.to_thread(self._context.term)


def _unheard(answer: bytes) -> protocol.Unheard | None:
    """What the broker refused."""
    try:
        return msgspec.json.decode(answer, type=protocol.Unheard) if answer else None
    except msgspec.DecodeError:
        return None
