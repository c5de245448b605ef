"""A stand-in for the API: canned answers behind a real server, with the page as it is served."""

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from services.api import files
from services.api.front import Front
from tests.services.api.page.canned import Json, empty

__all__ = ["PASSAGES", "QUERY", "StandIn", "serving"]

QUERY = "my new card still has not come"
PASSAGES = ("activate my card", "card not working", "card arrival", "lost or stolen card")
ANGLES = {
    QUERY: 0.0,
    "activate my card": 0.2,
    "card not working": 0.4,
    "card arrival": 0.6,
    "lost or stolen card": 1.4,
}
"""Where a text points, radians in the plane: the base model ranks as they are listed."""

BENT = 0.62
"""Where the skill turns the query: "card arrival" comes first."""


def error(status: int, message: str, code: str | None = None) -> Response:
    """A refusal in OpenAI's shape."""
    said = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": said}, status)


class Server(uvicorn.Server):
    """One that leaves the signals of the process to the tests."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Unobserved:
    """What stands around the application has nobody to tell."""

    observers = ()


@dataclass
class StandIn:
    """Says what it is told to, and remembers what it was asked."""

    status: Json = field(default_factory=empty)
    key: str | None = None
    """The bearer key that it asks for."""
    may_give: bool = True
    """Whether that key reaches as far as feedback."""
    away: bool = False
    """No fleet behind it: 503."""
    given: list[Json] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    resumed: list[str | None] = field(default_factory=list)
    """`Last-Event-ID` of each listener, in order of their coming."""
    journal: list[Json] = field(default_factory=list)
    port: int = 0
    _listeners: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    _server: uvicorn.Server | None = None
    _serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> None:
        """Serve; a second time on the same port."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self._app(), lifespan="off", log_config=None, ws="none")
        self._server = Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Be gone, streams and all."""
        for queue in list(self._listeners):
            queue.put_nowait(None)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving

    def happen(self, kind: str, data: Json, *, sequence: int | None = None) -> Json:
        """An event: kept in the journal where it has a number, told to whoever listens."""
        event = {
            "specversion": "1.0",
            "id": f"event-{len(self.journal)}-{kind}",
            "source": "/standin",
            "type": kind,
            "time": self.status["time"],
            "data": data,
        }
        if sequence is not None:
            event["sequence"] = sequence
            self.journal.append(event)
        for queue in self._listeners:
            queue.put_nowait(_framed(event))
        return event

    def tell(self, raw: bytes | None) -> None:
        """Bytes as they are, to whoever listens; None ends the streams."""
        for queue in self._listeners:
            queue.put_nowait(raw)

    @property
    def listening(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    def _app(self) -> ASGIApp:
        app = Starlette(
            routes=[
                Route("/v1/status", self._status),
                Route("/v1/events", self._events),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/feedback", self._feedback, methods=["POST"]),
                *files.routes(),
            ]
        )
        return Front(app, Unobserved())

    def _locked(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return error(401, "this key is not known", "invalid_api_key")

    async def _status(self, request: Request) -> Response:
        if (refusal := self._locked(request)) is not None:
            return refusal
        return error(503, "the bus does not answer") if self.away else JSONResponse(self.status)

    async def _events(self, request: Request) -> Response:
        if (refusal := self._locked(request)) is not None:
            return refusal
        last = request.headers.get("last-event-id")
        self.resumed.append(last)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        queue.put_nowait(b": hello\n\n")
        for event in self.journal:
            if event["sequence"] > int(last or 0):
                queue.put_nowait(_framed(event))
        self._listeners.add(queue)

        async def stream() -> AsyncIterator[bytes]:
            try:
                while (raw := await queue.get()) is not None:
                    yield raw
            finally:
                self._listeners.discard(queue)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _embeddings(self, request: Request) -> Response:
        if (refusal := self._locked(request)) is not None:
            return refusal
        asked = await request.json()
        self.asked.append(asked)
        skill = next((it for it in self.status["skills"] if it["state"] == "installed"), None)
        bent = skill is not None and asked["role"] == "query" and asked["model"] != "base"
        made: Json = {"skills": [], "reason": "base_requested"}
        if bent and skill is not None:
            named = {name: skill[name] for name in ("name", "version", "digest")}
            made = {"skills": [named | {"score": 0.71}], "reason": None}
        elif asked["model"] != "base":
            made["reason"] = "no_skills"
        data = [
            {"object": "embedding", "index": n, "embedding": _point(text, bent), "consonance": made}
            for n, text in enumerate(asked["input"])
        ]
        data.reverse()  # the index says which is which, not the place
        return JSONResponse({"object": "list", "model": asked["model"], "data": data})

    async def _feedback(self, request: Request) -> Response:
        if (refusal := self._locked(request)) is not None:
            return refusal
        if not self.may_give:
            return error(403, "this key may read, but not give feedback")
        self.given.append(await request.json())
        return JSONResponse({"id": f"feedback-{len(self.given)}"}, 202)


def _point(text: str, bent: bool) -> list[float]:
    angle = BENT if bent else ANGLES.get(text, 1.0)
    return [math.cos(angle), math.sin(angle)]


def _framed(event: dict[str, Any]) -> bytes:
    number = f"id: {event['sequence']}\n" if "sequence" in event else ""
    return f"{number}event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


@contextlib.asynccontextmanager
async def serving(standin: StandIn) -> AsyncIterator[StandIn]:
    """It serves while this lasts."""
    await standin.start()
    try:
        yield standin
    finally:
        await standin.stop()
