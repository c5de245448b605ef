"""The ways in which a card is received, each timed."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from pyarrow import flight

from lora.card import LoRAFormat
from services.federation.client import LoRAFlightClient
from services.federation.connection import Connection
from services.federation.server import LOOPBACK

__all__ = ["Ours", "bare", "frames", "ours", "sendfile"]

PIECE = 1 << 20


def frames(client: Connection, digest: str) -> float:
    """The gateway's own way of reading, the bytes dropped: what a transfer costs by itself."""
    started = time.perf_counter()
    for _ in client.open(digest, 0, 60.0):
        pass
    return time.perf_counter() - started


class Ours(NamedTuple):
    """Seconds, each from the call on."""

    streamed: float
    """The last byte was hashed and written."""
    fetched: float
    """The signature was checked, the file is on the disk and has its name."""
    installed: float
    """It was opened: parsed, every value checked, its matrices mapped."""


def sendfile(port: int, into: Path | None) -> float:
    """A plain TCP socket; what comes is written `into` a file or dropped."""
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    started = time.perf_counter()
    file = None if into is None else os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with socket.create_connection((LOOPBACK, port)) as connection:
        while count := connection.recv_into(buffer):
            if file is not None:
                os.write(file, view[:count])
    seconds = time.perf_counter() - started
    if file is not None:
        os.close(file)
    return seconds


def bare(client: flight.FlightClient, into: Path | None) -> float:
    """Every batch of a `do_get`, its bytes written `into` a file or dropped."""
    started = time.perf_counter()
    file = None if into is None else os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for chunk in client.do_get(flight.Ticket(b"")):
        part = chunk.data.column(0).buffers()[2]
        if file is not None:
            os.write(file, part)
    seconds = time.perf_counter() - started
    if file is not None:
        os.close(file)
    return seconds


def ours(client: LoRAFlightClient, digest: str) -> Ours:
    """Fetched, verified and installed, then removed again."""
    started = time.perf_counter()
    fetched = client.fetch_skill(digest)
    there = time.perf_counter()
    LoRAFormat.read(fetched.path, digest=digest, hashed=True)
    installed = time.perf_counter()
    fetched.path.unlink()
    return Ours(fetched.streaming, there - started, installed - started)
