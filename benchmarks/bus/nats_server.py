"""A NATS server with a stream to append to, told to have on the disk what it acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bus.appender import STREAM, SUBJECT
from benchmarks.kit import nats

__all__ = ["nats_server"]


@contextlib.contextmanager
def nats_server(folder: Path, *, synced: bool = True) -> Iterator[nats.NatsServer]:
    """On a free port of the loopback, its store in `folder`; raises `NatsFailed`."""
    with nats.nats_server(folder, synced=synced) as server:
        asyncio.run(_make_stream(server.url))
        yield server


async def _make_stream(url: str) -> None:
    from nats import connect

    connection = await connect(url)
    await connection.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
    await connection.close()
