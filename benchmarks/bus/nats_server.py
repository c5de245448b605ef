"""A NATS server with JetStream of its own, told to have on the disk what it acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.bus.appender import STREAM, SUBJECT
from benchmarks.bus.children import BenchError

__all__ = ["NatsServer", "nats_server", "nats_version"]

GETFLAGS, SETFLAGS, SYNC = 0x8008_6601, 0x4008_6602, 0x8
"""Of linux/fs.h: `chattr +S`, inherited by the files that are made in the folder."""


class NatsServer(NamedTuple):
    """One that listens."""

    url: str
    how: str
    """How it was made to sync what it acknowledges."""
    pid: int


def nats_version() -> str | None:
    """Of the server; None where it, or its client, is missing."""
    program = _program()
    with contextlib.suppress(ImportError):
        import nats  # noqa: F401

        if program is not None:
            said = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False
            )
            return said.stdout.strip().rpartition("v")[2] or None
    return None


@contextlib.contextmanager
def nats_server(folder: Path, *, synced: bool = True) -> Iterator[NatsServer]:
    """On a free port of the loopback, its store in `folder`; raises `BenchError`.

    With `synced` by `sync_interval: always`, or where the server is older than 2.10 and does not
    know that, by a store folder on which each write reaches the disk before it returns.
    """
    store = folder / "store"
    store.mkdir(parents=True)
    how = "synced every 2 minutes"
    if synced and _accepts(folder, _settings(store, 0, always=True)):
        how = "sync_interval: always"
    elif synced:
        _write_through(store)
        how = "store folder with chattr +S"
    port = _free_port()
    path = folder / "nats.conf"
    path.write_text(_settings(store, port, always="always" in how))
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen([str(_program()), "-c", str(path)], stdout=log, stderr=log)
    try:
        url = f"nats://127.0.0.1:{port}"
        _wait(port)
        asyncio.run(_make_stream(url))
        yield NatsServer(url, how, process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _settings(store: Path, port: int, *, always: bool) -> str:
    sync = ", sync_interval: always" if always else ""
    return f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: {json.dumps(str(store))}{sync} }}\n"


def _accepts(folder: Path, settings: str) -> bool:
    path = folder / "probe.conf"
    path.write_text(settings)
    command = [str(_program()), "-t", "-c", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _write_through(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, GETFLAGS, struct.pack("l", 0)))
        fcntl.ioctl(descriptor, SETFLAGS, struct.pack("l", flags | SYNC))
    except OSError as e:
        raise BenchError(f"this server cannot be told to sync, nor {folder}: {e}") from e
    finally:
        os.close(descriptor)


def _wait(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as e:
            if time.monotonic() > end:
                raise BenchError(f"the NATS server does not answer: {e}") from e
            time.sleep(0.02)


async def _make_stream(url: str) -> None:
    import nats

    connection = await nats.connect(url)
    await connection.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
    await connection.close()


def _program() -> str | None:
    return shutil.which("nats-server", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
