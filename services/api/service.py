"""The API's process: an HTTP server beside the bus."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from typing import ClassVar

import uvicorn

from lora.errors import ModelError
from lora.model import ModelFolder, find_model
from schemas import BaseModelRef
from services.api.app import create_app
from services.api.connection import Connection
from services.api.context import Answered, ApiContext
from services.api.dimensions import Dimensions, trained_sizes
from services.api.guard import Gate
from services.api.keys import KeyStore
from services.api.metrics import ApiMetrics
from services.errors import SettingsError
from services.runtime.api_address import handed, is_loopback, listening, url_of
from services.runtime.client import FleetClient
from services.runtime.fleet_view import FleetView
from services.runtime.service import Context, Service

__all__ = ["ApiService"]

IN_FLIGHT = 4
"""Parts of one request that are encoded at a time."""
LAST_WORDS = 1.0
"""Seconds for telling everybody, of those that are kept for closing down."""


class ApiService(Service):
    """Serves HTTP until it is told to stop; what is being answered then is answered."""

    name: ClassVar[str] = "api"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.counters = {"requests": 0, "refused": 0, "failed": 0, "port": 0}
        self.url = ""
        """Where it is reached on this machine, once it is set up."""
        self._api: ApiContext | None = None
        self._view: FleetView | None = None
        self._gate: Gate | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def queue(self) -> int:
        """Requests at work."""
        return 0 if self._gate is None else self._gate.at_work

    async def setup(self) -> None:
        """Bind, hear the fleet, serve."""
        own = self.settings.api
        keys = KeyStore.of(self.state.root)
        if not keys.list() and not is_loopback(own.host):
            raise SettingsError(
                f"the API is not bound to {own.host} without a key, as others could reach it: make "
                "one (consonance keys create NAME --scopes admin), or set api.host to 127.0.0.1"
            )
        listener = handed(os.environ) or listening(own)
        port = listener.getsockname()[1]
        self.url, self.counters["port"] = url_of(own.host, port), port
        model = await asyncio.to_thread(self._model)
        sizes = trained_sizes(model.folder) if model is not None else ()
        missed = 3 * self.settings.federation.repeat + 5
        self._view = FleetView(self.bus, model=_reference(model), offered=missed)
        await self._view.start()
        metrics = ApiMetrics(self._view)
        self._api = api = ApiContext(
            bus=self.bus,
            client=FleetClient(self.bus, in_flight=IN_FLIGHT),
            settings=self.settings,
            keys=keys,
            view=self._view,
            metrics=metrics,
            dimensions=Dimensions((*own.dimensions, *sizes)),
            observers=[self._count, metrics.observe],
        )
        self._gate = Gate(api)
        self._server = _Server(
            uvicorn.Config(
                create_app(api, gate=self._gate),
                access_log=False,
                date_header=False,
                http=Connection,
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=30,
                ws="none",
            )
        )
        self._serving = self.spawn(self._server.serve([listener]), "serve")
        await self._server.up.wait()
        self.log.info("serving", url=self.url, keys=len(keys.list()))

    async def drain(self) -> None:
        """Take no new connection; answer what was asked, end the streams.

        Cancelled, it has everybody told to come again who has no answer yet.
        """
        if self._server is None or self._serving is None or self._api is None:
            return
        self._api.draining.set()
        self._server.should_exit = True
        try:
            await asyncio.wait({self._serving})
        except asyncio.CancelledError:
            self._api.leaving.set()
            await asyncio.wait({self._serving}, timeout=LAST_WORDS)
            raise

    async def aclose(self) -> None:
        """Close what looks at the fleet."""
        if self._view is not None:
            await self._view.aclose()
        await super().aclose()

    def _model(self) -> ModelFolder | None:
        """The model that the fleet serves, where its files are at hand here."""
        try:
            return find_model(self.settings.fleet.model)
        except ModelError as error:
            self.log.warning("the model is not at hand", why=str(error))
            return None

    def _count(self, answered: Answered) -> None:
        self.counters["requests"] += 1
        if answered.status >= 500:
            self.counters["failed"] += 1
        elif answered.status >= 400:
            self.counters["refused"] += 1


class _Server(uvicorn.Server):
    """Says when it is up; signals are the service's business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave them as they are."""
        yield


def _reference(model: ModelFolder | None) -> BaseModelRef | None:
    if model is None:
        return None
    return BaseModelRef(id=model.base_model.id, sha256=model.base_model.sha256)
