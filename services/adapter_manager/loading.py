"""Has one living encoder load a card before anybody is told of it; knows which encoders live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from schemas import AdapterFailed, AdapterLoad, Event, FleetHeartbeat, address_of

__all__ = ["Loader", "Outcome", "Verdict"]

SILENCE: Final = 6.0
"""Seconds without a heartbeat after which an encoder is taken for gone."""

RESEND: Final = 2.0
"""Seconds after which an encoder that has not answered is asked again."""

PATIENCE: Final = 20.0
"""Seconds for which one delivery waits for an encoder."""


class Verdict(Enum):
    """What came of it."""

    LOADED = "loaded"
    FAILED = "failed"
    NOBODY = "nobody"
    """No encoder lives, or none answered in time: to be tried again later."""


class Outcome(NamedTuple):
    """What came of it, and what the encoder said."""

    verdict: Verdict
    message: str = ""


class _Encoder(NamedTuple):
    pid: int
    ready: bool
    seen: float


class Loader:
    """Encoders by address, and what is asked of them."""

    def __init__(
        self, source: str, send: Callable[[Event[Any]], Awaitable[None]], patience: float = PATIENCE
    ) -> None:
        self._source = source
        self._send = send
        self._patience = patience
        self._encoders: dict[str, _Encoder] = {}
        self._asked: dict[str, tuple[str, asyncio.Future[Outcome]]] = {}

    def alive(self) -> tuple[str, ...]:
        """The addresses of the encoders that are ready, sorted."""
        now = time.monotonic()
        return tuple(
            sorted(
                address
                for address, encoder in self._encoders.items()
                if encoder.ready and now - encoder.seen <= SILENCE
            )
        )

    def beat(self, event: Event[FleetHeartbeat]) -> str | None:
        """Take note of a heartbeat; the address of an encoder that has just become ready."""
        data = event.data
        if data.service != "encoder":
            return None
        address = address_of(event.source)
        before = self._encoders.get(address)
        ready = data.state in ("ready", "degraded")
        self._encoders[address] = _Encoder(data.pid, ready, time.monotonic())
        same = before is not None and before.pid == data.pid and before.ready
        return address if ready and not same else None

    def heard(self, event: Event[Any]) -> None:
        """An encoder tells that it has mapped a card, or could not."""
        data = event.data
        asked = self._asked.get(data.digest)
        if asked is None or asked[1].done():
            return
        if not isinstance(data, AdapterFailed):
            asked[1].set_result(Outcome(Verdict.LOADED))
        elif data.worker == asked[0]:
            message = data.message or "it gave no reason"
            asked[1].set_result(Outcome(Verdict.FAILED, f"{data.worker} cannot load it: {message}"))

    async def load(self, cause: Event[Any], digest: str) -> Outcome:
        """Have one encoder load a card; another one is asked where the first does not answer."""
        ends = time.monotonic() + self._patience
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            for attempt in range(1000):
                alive = self.alive()
                left = ends - time.monotonic()
                if not alive or left <= 0:
                    break
                # The first two attempts go to one encoder: an event may have been lost.
                worker = alive[(int(digest[-8:], 16) + attempt // 2) % len(alive)]
                self._asked[digest] = (worker, answer)
                hint = AdapterLoad(digest=digest)
                await self._send(
                    cause.derive(hint, source=self._source, to=worker, ordinal=attempt)
                )
                done, _ = await asyncio.wait({answer}, timeout=min(RESEND, left))
                if done:
                    return answer.result()
            return Outcome(Verdict.NOBODY)
        finally:
            self._asked.pop(digest, None)
