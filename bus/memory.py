"""The bus within one process: same rules, same journal, no sockets; for tests and notebooks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from bus import protocol
from bus.broker.core import Core
from bus.client.client import ClientBus
from bus.errors import Closed, Refused, Unreachable, refusal
from bus.link import Link
from bus.settings import BrokerSettings

__all__ = ["MemoryBus"]


class MemoryBus(ClientBus):
    """`async with MemoryBus(source="/notebook/1") as bus: …`, or `connect("memory://name")`.

    All with the same name in one event loop share one bus; its journal lives until the last of
    them is closed. Messages pass through the same frames and checks as on a wire.
    """

    def __init__(
        self,
        name: str = "",
        *,
        source: str,
        patience: float = 30.0,
        settings: BrokerSettings | None = None,
    ) -> None:
        super().__init__(_MemoryLink(name, settings), source=source, patience=patience)

    async def __aenter__(self) -> MemoryBus:
        await self.open()
        return self


class _Hub:
    """The broker's part, shared by all links of one name in one event loop."""

    _all: ClassVar[dict[tuple[str, asyncio.AbstractEventLoop], _Hub]] = {}

    def __init__(self, name: str, settings: BrokerSettings | None) -> None:
        self._key = (name, asyncio.get_running_loop())
        self._links: list[_MemoryLink] = []
        self._started: asyncio.Task[None] | None = None
        self.core = Core(self._emit, settings=settings)

    @classmethod
    def get(cls, name: str, settings: BrokerSettings | None) -> _Hub:
        for key in [key for key in cls._all if key[1].is_closed()]:
            del cls._all[key]
        key = (name, asyncio.get_running_loop())
        if key not in cls._all:
            cls._all[key] = cls(name, settings)
        return cls._all[key]

    async def join(self, link: _MemoryLink) -> None:
        self._links.append(link)
        if self._started is None:
            self._started = asyncio.create_task(self.core.start())
        await self._started

    async def leave(self, link: _MemoryLink) -> None:
        self._links.remove(link)
        if not self._links:
            self._all.pop(self._key, None)
            await self.core.aclose()

    def _emit(self, message: Sequence[bytes]) -> None:
        topic = bytes(message[0]).decode(errors="replace")
        for link in tuple(self._links):
            if topic in link.topics:
                asyncio.get_running_loop().call_soon(link.deliver, message)


class _MemoryLink(Link):
    def __init__(self, name: str, settings: BrokerSettings | None) -> None:
        self.url = f"memory://{name}"
        self.topics: set[str] = set()
        self._name = name
        self._settings = settings
        self._hub: _Hub | None = None
        self._joined: asyncio.Task[None] | None = None
        self._pending: dict[bytes, asyncio.Future[tuple[bytes, bytes]]] = {}
        self._closed = False

    def _core(self) -> Core:
        if self._closed or self._hub is None:
            raise Closed("the bus is closed, or was not entered yet: use connect or async with")
        return self._hub.core

    def send(self, message: Sequence[bytes]) -> bool:
        self._core().ingress(message)
        return True

    async def call(
        self, verb: str, body: bytes, patience: float, request: bytes | None = None
    ) -> bytes:
        await self.confirm(patience)
        core = self._core()
        request = request or self.new_request()
        answer = self._pending.get(request)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._pending[request] = answer

        put_off: list[Refused] = []

        def ask() -> None:
            if not answer.done():
                core.request((b"%d" % id(self), request), verb.encode(), body, reply)

        def reply(status: bytes, found: bytes) -> bool:
            if answer.done():
                return False
            if status == protocol.ERROR:
                error = msgspec.json.decode(found, type=protocol.Error)
                if error.retry_after_ms is not None:
                    put_off[:] = [refusal(error.code, error.message)]
                    asyncio.get_running_loop().call_later(error.retry_after_ms / 1000, ask)
                    return True
            answer.set_result((status, found))
            return True

        try:
            ask()
            async with asyncio.timeout(patience):
                status, found = await asyncio.shield(answer)
        except TimeoutError as e:
            if put_off:
                raise put_off[0] from e
            raise Unreachable(f"the journal did not answer {verb} within {patience:g} s") from e
        finally:
            if self._pending.get(request) is answer:
                del self._pending[request]
            if not answer.done():
                answer.cancel()
        if status == protocol.OK:
            return found
        error = msgspec.json.decode(found, type=protocol.Error)
        raise refusal(error.code, error.message)

    def subscribe(self, topic: str) -> None:
        self.topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)

    def deliver(self, message: Sequence[bytes]) -> None:
        if not self._closed and bytes(message[0]).decode() in self.topics:
            self.on_message(message)

    async def confirm(self, patience: float) -> None:
        if self._closed:
            raise Closed("the bus is closed")
        if self._hub is None:
            self._hub = _Hub.get(self._name, self._settings)
            self._joined = asyncio.create_task(self._hub.join(self))
        if self._joined is not None:
            await self._joined

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._hub is not None:
                await self._hub.leave(self)
