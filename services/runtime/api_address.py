"""Where the API listens: which port, whether others reach it, and how it is written as a URL."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping
from typing import Final

from services.errors import SettingsError
from services.runtime.settings_api import ApiSettings

__all__ = ["PORT", "SOCKET", "bound", "handed", "is_loopback", "listening", "url_of"]

PORT: Final = 8321
"""The port where none is set and it is free."""

SOCKET: Final = "CONSONANCE_API_SOCKET"
"""Names the descriptor of a listening socket that who starts the API hands to it."""

BACKLOG: Final = 2048
"""Connections that wait while the API starts, or starts anew."""


def bound(settings: ApiSettings) -> socket.socket:
    """A socket bound to the address and port of the settings; it does not listen yet.

    Raises `SettingsError`, in one sentence, where they cannot be bound.
    """
    if settings.port is not None:
        return _bound(settings.host, settings.port)
    try:
        return _bound(settings.host, PORT)
    except SettingsError as error:
        if not _taken(error.__cause__):
            raise
        return _bound(settings.host, 0)


def listening(settings: ApiSettings) -> socket.socket:
    """The same, and at once listening: until then others may bind the same port.

    Who connects waits until it is served. Raises `SettingsError`.
    """
    for _ in range(2 if settings.port is None else 1):
        listener = bound(settings)
        port = listener.getsockname()[1]
        try:
            listener.listen(BACKLOG)
        except OSError:  # where no port is set, the next round sees that this one is in use
            listener.close()
        else:
            return listener
    raise SettingsError(
        f"The API cannot listen on port {port} of {settings.host}: another was quicker."
    )


def handed(environment: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that was handed to this process, if one was."""
    return socket.socket(fileno=int(environment[SOCKET])) if SOCKET in environment else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address: all that it means must be loopback."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(is_loopback(str(address[0])) for *_, address in found)


def url_of(host: str, port: int) -> str:
    """How a person, or a client on this machine, writes it: without a slash at the end."""
    bare = host.strip("[]")
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return f"http://{bare}:{port}"
    if address.is_unspecified:
        bare = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{bare}]:{port}" if address.version == 6 else f"http://{bare}:{port}"


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"api.host {host!r} is no address of this machine: {error}.") from error
    try:
        # A port whose last connections are still being forgotten is free.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        if _taken(error):
            sentence = f"The API cannot bind port {port} of {host}: it is in use; set api.port."
        else:
            sentence = f"The API cannot bind port {port} of {host}: {error.strerror or error}."
        raise SettingsError(sentence) from error
    return found


def _taken(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE
