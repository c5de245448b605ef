"""`GET /v1/events`: what the fleet says, as server-sent events.

A durable event bears its number in the journal as `id`: who comes again with it as `Last-Event-ID`
is told what was said meanwhile, without a gap and nothing twice. Live events bear none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bus import Bus, BusError, Closed
from services.api.context import ApiContext, context_of
from services.api.errors import InvalidRequest, Overloaded
from services.api.event_log import DEFAULT, STREAMED, EventLog, Reader, notice
from services.api.operation import Operation, Query

__all__ = ["OPERATIONS", "EventHub"]

STREAMS: Final = 64
"""Listeners at a time."""

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent, so that whoever is between keeps the line."""

STALLED: Final = 30.0
"""Seconds for which a listener may take nothing of what is sent to it."""

AGAIN: Final = 1000
"""Milliseconds after which a listener whose stream ends should come again."""

_ALIVE: Final = b": alive\n\n"


class EventHub:
    """The streams of one application: a log as long as there is a listener, and how many are."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._log: EventLog | None = None
        self._changing = asyncio.Lock()
        self.listeners = 0

    @property
    def listens(self) -> bool:
        """Whether it hears the bus: only while somebody hears it."""
        return self._log is not None

    async def enter(self, types: frozenset[str], after: int | None) -> Reader:
        """A reader for a new listener; raises `Overloaded`, `bus.BusError`."""
        if self.listeners >= STREAMS:
            raise Overloaded(f"{STREAMS} listen already, which is all that may", retry_after=5)
        self.listeners += 1
        try:
            async with self._changing:
                if self._log is None or self._log.over:
                    log = EventLog(self._bus)
                    await log.__aenter__()
                    self._log = log
                return await self._log.reader(types, after)
        except BaseException:
            await self.leave(None)
            raise

    async def leave(self, reader: Reader | None) -> None:
        """A listener is gone; with the last one the log is closed."""
        self.listeners -= 1
        if reader is not None:
            reader.close()
        async with self._changing:
            if not self.listeners and self._log is not None:
                log, self._log = self._log, None
                await log.__aexit__(None, None, None)


class EventStream(Response):
    """Sends what a reader is told until somebody ends it: the listener, the reader, the process."""

    media_type = "text/event-stream"

    def __init__(self, hub: EventHub, reader: Reader, draining: asyncio.Event) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._reader = reader
        self._draining = draining
        self._log = structlog.get_logger(service="api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until it ends."""
        reader = self._reader
        watchers = [
            asyncio.create_task(_then(lambda: _gone(receive), reader.end)),
            asyncio.create_task(_then(self._draining.wait, reader.end)),
        ]
        try:
            await self._start(send)
            try:
                async for frames in reader.frames(HEARTBEAT):
                    await self._send(send, frames or _ALIVE)
            except BusError as error:
                if not isinstance(error, Closed):
                    self._log.warning("an event stream ends", why=str(error))
            farewell = b": the end of this stream; come again\n\n"
            if reader.slow:
                farewell = notice("cut", reason="too slow: more waited than is kept")
            await self._send(send, b"retry: %d\n%s" % (AGAIN, farewell), more=False)
        except TimeoutError:
            self._log.info("an event stream was cut", why=f"it took nothing for {STALLED:g} s")
        except OSError:
            pass  # gone while it was told
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await self._hub.leave(reader)

    async def _start(self, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # The number alone is told to nobody, but whoever is cut off before the first event
        # comes again from here.
        await self._send(send, b"retry: %d\nid: %d\n\n" % (AGAIN, self._reader.after))

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(STALLED):
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def get_events(request: Request) -> Response:
    """Listen."""
    context = context_of(request)
    types, after = _types(request), _after(request)
    hub = _hub(request, context)
    reader = await hub.enter(types, after)
    return EventStream(hub, reader, context.draining)


def _hub(request: Request, context: ApiContext) -> EventHub:
    state = request.app.state
    if not isinstance(getattr(state, "events", None), EventHub):
        state.events = EventHub(context.bus)
    hub: EventHub = state.events
    return hub


def _types(request: Request) -> frozenset[str]:
    named = [
        name.strip()
        for given in request.query_params.getlist("types")
        for name in given.split(",")
        if name.strip()
    ]
    for name in named:
        if name not in STREAMED:
            raise InvalidRequest(
                f"there is no event type {name!r} to listen to; there are {', '.join(STREAMED)}",
                param="types",
            )
    return frozenset(named or DEFAULT)


def _after(request: Request) -> int | None:
    """The header goes before the query: a browser that comes again keeps the address it had."""
    for name, given in (
        ("Last-Event-ID", request.headers.get("last-event-id")),
        ("after", request.query_params.get("after")),
    ):
        if given:
            if not (given.isascii() and given.isdecimal() and len(given) <= 18):
                raise InvalidRequest(
                    f"{name} is {given[:40]!r}, not a number of the journal", param=name
                )
            return int(given)
    return None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _then(happened: Callable[[], Awaitable[object]], end: Callable[[], None]) -> None:
    await happened()
    end()


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/v1/events",
        get_events,
        "read",
        "Listen to the fleet",
        "Server-sent events: `event` is the type, `data` the whole CloudEvent, `id` the number of "
        "a durable event in the journal. With `Last-Event-ID`, or `after`, the journal's events "
        "beyond that number come first: nothing is missed and nothing comes twice. Where some of "
        "them are beyond retention, an event `truncated` says so. A comment comes every 15 s where "
        "nothing else does. Who reads too slowly is cut off, after an event `cut` where it can be "
        "told, and may come again with the last number. What other clients have embedded is not "
        "told; the feedback that was given is, with its texts.",
        media="text/event-stream",
        query=(
            Query(
                "types",
                "Event types, with commas between them; absent: all but `fleet.heartbeat`.",
            ),
            Query("after", "A number of the journal: what follows it comes first.", int),
            Query(
                "Last-Event-ID",
                "The same, as browsers send it when they come again; it goes before `after`.",
                int,
                place="header",
            ),
        ),
        tag="fleet",
        lasting=True,
    ),
)
