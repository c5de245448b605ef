"""Where a bus lives: its URL, and the three endpoints behind it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bus.errors import InsecureFolder, InvalidUrl

__all__ = ["MAX_PATH", "Endpoints", "endpoints", "secure_folder"]

MAX_PATH = 107
"""Bytes of a socket's path that every platform here takes (104 with its end on macOS)."""


class Endpoints(NamedTuple):
    """The three addresses of a broker; `folder` for ipc only."""

    ingress: str
    egress: str
    journal: str
    folder: Path | None
    ports: tuple[int, int, int] | None

    @property
    def secured(self) -> bool:
        """Whether CURVE guards it; for ipc the folder does."""
        return self.folder is None

    @property
    def heartbeat(self) -> tuple[int, int]:
        """Milliseconds between two signs of life of a connection, and without any until it ends.

        On one machine the system tells when a process ends: they find only those that are frozen,
        and each wakes four threads.
        """
        return (2_000, 6_000) if self.secured else (5_000, 15_000)


def endpoints(url: str) -> Endpoints:
    """The endpoints of `ipc:///folder` or `tcp://host:5550`; raises `InvalidUrl`."""
    if url.startswith("ipc://"):
        return _ipc(url)
    if url.startswith("tcp://"):
        return _tcp(url)
    raise InvalidUrl(
        f"{url!r} is no bus: expected ipc:///folder, tcp://host:port, nats://host:port or memory://"
    )


def _ipc(url: str) -> Endpoints:
    path = url.removeprefix("ipc://")
    if not path.startswith("/"):
        raise InvalidUrl(f"{url!r} needs an absolute folder: ipc:///path/to/folder")
    folder = Path(path)
    longest = len(os.fsencode(folder / "ingress.sock"))
    if longest > MAX_PATH:
        raise InvalidUrl(
            f"the socket path {folder}/ingress.sock has {longest} bytes and the system takes"
            f" {MAX_PATH}: choose a shorter folder"
        )
    names = [f"ipc://{folder / name}.sock" for name in ("ingress", "egress", "journal")]
    return Endpoints(names[0], names[1], names[2], folder, None)


def _tcp(url: str) -> Endpoints:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as e:
        raise InvalidUrl(f"{url!r} has no usable port: {e}") from e
    if not parts.hostname or not port or parts.path not in ("", "/"):
        raise InvalidUrl(f"{url!r} needs a host and a port: tcp://host:5550")
    if port > 65_533:
        raise InvalidUrl(f"{url!r}: three ports from {port} on are needed, the last is 65535")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    names = [f"tcp://{host}:{port + n}" for n in range(3)]
    return Endpoints(names[0], names[1], names[2], None, (port, port + 1, port + 2))


def secure_folder(folder: Path) -> None:
    """Make an ipc folder that only its owner may enter; raises `InsecureFolder`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as e:
        raise InsecureFolder(f"the bus folder {folder} cannot be used: {e.strerror}") from e
    if not stat.S_ISDIR(found.st_mode):
        raise InsecureFolder(f"the bus folder {folder} is no folder")
    if found.st_uid != os.geteuid():
        raise InsecureFolder(f"the bus folder {folder} belongs to another user")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise InsecureFolder(
            f"the bus folder {folder} has mode {mode:04o}, others may enter: chmod 700 it"
        )
