"""The connection to the servers, and requests that outlive a lost one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.errors import BusError, Closed, InvalidKey, NotPermitted, TooLarge, Unreachable
from bus.nats.client import PAUSE, LastingClient
from bus.nats.credentials import credentials
from bus.nats.names import Place
from bus.seldom import Seldom, shown

__all__ = ["Connection", "Handler"]

Handler = Callable[[Msg], Awaitable[None]]

ATTEMPT = 5.0
"""Seconds after which a request without an answer is sent again."""
ANSWER = 1.0
"""Seconds within which who listens answers, unless it is frozen or far behind."""
OUTBOUND = 64 * 2**20
"""Bytes that may wait for a connection that is away."""
CLOSING = 2.0
"""Seconds that the client library has for closing; it would wait for a server that is frozen."""
INSISTING = 20
"""How often what is left is told to end, `PAUSE` seconds apart: it may lose a cancellation."""
_DENIED = re.compile(r"permissions violation for (\w+) to \"([^\"]*)\"", re.IGNORECASE)
_log = logging.getLogger(__name__)


class Connection:
    """One connection in one event loop; reconnects by itself for as long as it is open."""

    def __init__(self, place: Place, *, name: str) -> None:
        self.place = place
        self.reconnects = 0
        self.unheard: set[str] = set()
        """Subjects that the server does not let this user hear."""
        self.on_reconnect: Callable[[], None] = lambda: None
        self.on_loss: Callable[[str], None] = lambda subject: None
        """Called with a subject of which a message was lost here, for want of room."""
        self._name = name
        self._client = LastingClient()
        self._asked: set[tuple[str, asyncio.Future[None]]] = set()
        """Subjects of the requests under way, and what ends the wait for an answer early."""
        self._up = asyncio.Event()
        self._refused: asyncio.Future[None] | None = None
        self._opened = False
        self._closed = False
        self._seldom = Seldom(_log)

    # opening and closing

    async def open(self, patience: float) -> None:
        """Return once connected; raises `Unreachable`, `NotPermitted`, `InvalidKey`."""
        options = credentials(self.place)
        self._refused = asyncio.get_running_loop().create_future()
        connecting: asyncio.Task[None] = asyncio.ensure_future(
            self._client.connect(
                list(self.place.servers),
                name=self._name,
                error_cb=self._failed,
                disconnected_cb=self._lost,
                reconnected_cb=self._regained,
                closed_cb=self._lost,
                max_reconnect_attempts=-1,
                reconnect_time_wait=PAUSE,  # type: ignore[arg-type]  # seconds, a part of one too
                connect_timeout=2,
                ping_interval=2,
                max_outstanding_pings=3,
                pending_size=OUTBOUND,
                **options,
            )
        )
        # However it ends, whoever opens it is told here.
        connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(patience):
                await asyncio.wait([connecting, self._refused], return_when=asyncio.FIRST_COMPLETED)
                if self._refused.done():
                    self._refused.result()
                await connecting
        except TimeoutError as e:
            raise Unreachable(
                f"no NATS server answered within {patience:g} s at {self.place.shown}: is it"
                " running?"
            ) from e
        except (OSError, ValueError, nats.errors.Error) as e:
            raise Unreachable(f"cannot connect to {self.place.shown}: {e}") from e
        finally:
            if not connecting.done():
                await self._end(connecting)
            self._refused.cancel()
        self._opened = True
        self._up.set()

    async def aclose(self) -> None:
        """Send what was to be sent, and close."""
        self._closed = True
        self._up.set()
        self._end_waits(lambda: Closed("the bus is closed"))
        if self._refused is None:
            return  # nothing was opened
        closing = asyncio.ensure_future(self._close())
        # Not by a timeout around it: the library swallows a cancellation here and there.
        await asyncio.wait([closing], timeout=CLOSING)
        if not closing.done():
            _log.info("the connection to %s is given up as it is", self.place.shown)
        # An error on the way, as of a socket that broke, leaves the library's tasks as they were.
        await self._end(closing)

    async def _end(self, work: asyncio.Task[None]) -> None:
        """End this, and whatever of the library still runs; it loses a cancellation now and then,
        and would go on for ever."""
        for _ in range(INSISTING):
            work.cancel()
            running = self._client.abandon()
            if work.done() and not running:
                return
            await asyncio.wait({work, *running}, timeout=PAUSE)

    async def _close(self) -> None:
        """As the library does it, which may take as long as a server is frozen."""
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await self._client.flush(1)
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await self._client.close()

    @property
    def live(self) -> bool:
        """Whether a server hears what is sent now."""
        return self._client.is_connected and not self._closed

    @property
    def clustered(self) -> bool:
        """Whether the server is one of several."""
        return bool(self._client._server_info.get("cluster"))

    @property
    def version(self) -> str:
        """Of the server, `2.10.3`; empty where it did not say."""
        return str(self._client._server_info.get("version", ""))

    @property
    def max_payload(self) -> int:
        """Bytes of a message that the server takes."""
        return self._client.max_payload

    # what happens to it

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.on_loss(error.subject)
            return
        denied = _DENIED.search(str(error))
        if denied is None:
            refused, why = self._refused, self._refusal(error)
            if refused is not None and not refused.done() and why is not None:
                refused.set_exception(why)
            if self._opened:  # before, whoever opens it is told
                said = shown(str(error) or type(error).__name__)
                self._seldom.warning("the connection to %s: %s", self.place.shown, said)
            return
        what, subject = denied[1].lower(), denied[2]
        self._seldom.warning("this user may not %s to %s", what, shown(subject))
        if what == "subscription":
            self.unheard.add(subject)
        else:
            self._end_waits(
                lambda: NotPermitted(f"this user may not publish to {subject}"), subject
            )

    def _refusal(self, error: Exception) -> BusError | None:
        """Why no further attempt to connect can do better."""
        at = f"the server at {self.place.shown}"
        if "uthorization" in str(error):
            return NotPermitted(f"{at} does not admit this user")
        if isinstance(error, ssl.SSLCertVerificationError):
            return InvalidKey(
                f"{at} is not known by its certificate: {error.verify_message}; the file of the"
                " authority that signed it is named by CONSONANCE_NATS_CA"
            )
        if isinstance(error, nats.errors.SecureConnRequiredError):
            return InvalidKey(f"{at} does not offer TLS, which is asked for: nothing was sent")
        return None

    async def _lost(self) -> None:
        self._up.clear()
        self._end_waits(None)

    async def _regained(self) -> None:
        self.reconnects += 1
        self._up.set()
        self.on_reconnect()

    def _end_waits(self, why: Callable[[], BusError] | None, subject: str | None = None) -> None:
        for asked, trouble in self._asked:
            if not trouble.done() and subject in (None, asked):
                trouble.set_exception(why()) if why else trouble.set_result(None)

    # messages

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send, without waiting for anybody; raises `Closed`, `TooLarge`, `Unreachable`."""
        try:
            await self._client.publish(subject, body, reply, headers or None)
        except nats.errors.MaxPayloadError as e:
            raise self._too_large(len(body)) from e
        except nats.errors.OutboundBufferLimitError as e:
            raise Unreachable(f"too much waits for a server at {self.place.shown}") from e
        except nats.errors.Error as e:
            raise self._broken(e) from e

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(
            f"the message has {size} bytes, and the NATS server takes {self.max_payload}:"
            " raise its max_payload"
        )

    def _broken(self, error: Exception) -> BusError:
        if self._closed or self._client.is_closed:
            return Closed("the bus is closed")
        if isinstance(error, nats.errors.NoRespondersError):
            return Unreachable(
                f"JetStream does not answer at {self.place.shown}: is it enabled (nats-server -js)?"
            )
        return Unreachable(f"the NATS server at {self.place.shown}: {error}")

    async def subscribe(self, subject: str, handler: Handler | None = None) -> Subscription:
        """Listen to a subject; raises `Closed`, `Unreachable`."""
        try:
            return await self._client.subscribe(subject, cb=handler)
        except nats.errors.Error as e:
            raise self._broken(e) from e

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Stop listening."""
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()

    def inbox(self) -> str:
        """A subject that nobody else listens to."""
        return self._client.new_inbox()

    async def flush(self, patience: float) -> None:
        """Return once the server has taken everything so far; raises `Unreachable`, `Closed`."""
        end = asyncio.get_running_loop().time() + patience
        while True:
            await self._connected(end, "the subscriptions")
            left = max(0.01, end - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(min(ATTEMPT, left)):
                    await self._client.flush(ATTEMPT)  # type: ignore[arg-type]
                    return
            except (TimeoutError, nats.errors.Error, OSError) as e:
                _log.debug("the server did not answer a ping: %s", e)
                await asyncio.sleep(PAUSE)

    async def _connected(self, end: float, what: str) -> None:
        """Return once there is a connection; raises `Unreachable` at `end`, the loop's time."""
        if self._closed:
            raise Closed("the bus is closed")
        left = end - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(left):
                await self._up.wait()
                if left <= 0:
                    raise TimeoutError
        except TimeoutError as e:
            raise Unreachable(
                f"no answer to {what} in time from the NATS server at {self.place.shown}: is it"
                " running?"
            ) from e
        if self._closed:
            raise Closed("the bus is closed")

    async def heard(self, subject: str, end: float) -> bool | None:
        """Whether somebody listens to a subject and answers; None: listens, and does not answer.

        Raises `Unreachable` at `end` (the loop's time), `Closed`.
        """
        while True:
            await self._connected(end, subject)
            try:
                await self._client.request(subject, b"", ANSWER)
            except nats.errors.NoRespondersError:
                return False
            except nats.errors.TimeoutError:
                if self.live:
                    return None
            except nats.errors.Error as e:
                _log.debug("%s, asking again: %s", subject, e)
                await asyncio.sleep(PAUSE)
            else:
                return True

    async def request(
        self, subject: str, body: bytes, end: float, headers: Mapping[str, str] | None = None
    ) -> Msg:
        """The answer to a request that may be sent more than once, until `end` (the loop's time).

        Raises `Unreachable`, `NotPermitted`, `TooLarge`, `Closed`.
        """
        loop = asyncio.get_running_loop()
        if len(body) + _size(headers) > self.max_payload:
            raise self._too_large(len(body))
        while True:
            await self._connected(end, subject)
            trouble: asyncio.Future[None] = loop.create_future()
            entry = (subject, trouble)
            self._asked.add(entry)
            asking = asyncio.ensure_future(
                self._client.request(
                    subject, body, max(0.01, min(ATTEMPT, end - loop.time())), headers=_own(headers)
                )
            )
            try:
                either: list[asyncio.Future[Any]] = [asking, trouble]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return asking.result()
                trouble.result()
            except nats.errors.MaxPayloadError as e:
                raise self._too_large(len(body)) from e
            except (nats.errors.Error, TimeoutError, OSError) as e:
                _log.debug("%s, asking again: %s", subject, e)
                if loop.time() + PAUSE >= end:
                    raise self._broken(e) from e
            finally:
                self._asked.discard(entry)
                trouble.cancel()
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(PAUSE)


def _own(headers: Mapping[str, str] | None) -> dict[str, Any] | None:
    return dict(headers) if headers else None


def _size(headers: Mapping[str, str] | None) -> int:
    return sum(len(key) + len(value) + 4 for key, value in headers.items()) + 12 if headers else 0
