"""The HTTP API on a real socket, and raw bytes for it.

Behind it stands somebody who plays the fleet. Raw bytes that are hardly HTTP go in beside.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import requests

from tests.services.api.kit import card, opened
from tests.torture.input.target import Broken, hold, silence
from tests.torture.input.trees import dented

__all__ = ["PATIENCE", "knocked", "served"]

PATIENCE = 20.0
"""Seconds that an answer may take."""


@contextmanager
def served() -> Iterator[str]:
    """The address of an API whose fleet is played, in a thread of its own."""
    address: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def serve(folder: Path) -> None:
        async with opened(folder, max_inputs=200) as door:
            door.player.cards = [card("banking"), card("banking", 2), card("legal")]
            address.append(door.url)
            ready.set()
            while not done.is_set():  # a fleet of which nothing is heard would be taken for gone
                await door.player.beat()
                await asyncio.to_thread(done.wait, 1.0)

    with TemporaryDirectory(prefix="torture-") as folder, silence():
        thread = threading.Thread(target=lambda: asyncio.run(serve(Path(folder))), daemon=True)
        thread.start()
        try:
            hold(ready.wait(60), "the API did not start")
            yield address[0]
        finally:
            done.set()
            thread.join(30)


REQUESTS = (
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 31\r\n\r\n{"input": "word", "model": "a"}',
    b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /v1/events?types=x&after=1 HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: x\r\n\r\n",
    b"GET /v1/skills/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\r\n\r\n",
    b"PUT / HTTP/0.9\r\n" + b"X: " + b"y" * 3000 + b"\r\n\r\n",
)


def knocked(url: str, times: int, random: Random, until: float = float("inf")) -> int:
    """Send bytes that are nearly requests; the API still answers after them."""
    host, _, port = url.removeprefix("http://").partition(":")
    count = 0
    while count < times and time.monotonic() < until:
        raw = random.choice(REQUESTS)
        for _ in range(random.choice([1, 2, 5])):
            raw = dented(raw, random)
        with socket.create_connection((host, int(port)), PATIENCE) as door, suppress(OSError):
            door.settimeout(0.2)
            door.sendall(raw)
            if random.random() < 0.5:
                door.shutdown(socket.SHUT_WR)
            answer = door.recv(1 << 16)
            status = answer.split(b" ", 2)[1:2]
            if status and status[0] == b"500":
                raise Broken(f"a request was answered with 500: {raw!r}")
        count += 1
    hold(requests.get(f"{url}/healthz", timeout=PATIENCE).ok, "the API does not answer any more")
    return count
