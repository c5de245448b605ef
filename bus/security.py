"""CURVE: keys and their files, and the authenticator that admits clients by an allow-list.

STATE/keys/broker.key_secret     the broker's pair, 0600
STATE/keys/broker.key            its public key: clients get a copy (CONSONANCE_SERVER_KEY)
STATE/keys/NAME.key_secret       a client's pair, 0600: goes to the client (CONSONANCE_KEY)
STATE/keys/clients/NAME.key      its public key: who is listed here is admitted
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.utils.z85

from bus.errors import InvalidKey
from bus.sockets import Drained

__all__ = [
    "Authenticator",
    "KeyPair",
    "make_broker_keys",
    "make_client_keys",
    "read_pair",
    "read_public",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINE = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]{40})"\s*$', re.MULTILINE)
_log = logging.getLogger(__name__)


class KeyPair(NamedTuple):
    """A CURVE key pair, each key 40 characters of Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair({self.public!r})"  # logs and tracebacks show what is at hand


def make_broker_keys(keys: Path) -> Path:
    """The broker's pair in `keys`, made where it is missing; the path of its public key."""
    public = keys / "broker.key"
    if not (keys / "broker.key_secret").exists():
        pair = KeyPair(*zmq.curve_keypair())
        _write(keys / "broker.key_secret", pair.public, pair.secret, 0o600)
        public.unlink(missing_ok=True)
        _write(public, pair.public, None, 0o644)
    return public


def make_client_keys(keys: Path, name: str) -> Path:
    """A new client's pair, its public key admitted; the path of the pair's file.

    Raises `InvalidKey` for a name that exists already or cannot be a file's name.
    """
    if not NAME.fullmatch(name) or name == "broker":
        raise InvalidKey(f"{name!r} cannot name a client: letters, digits, '.', '_' and '-'")
    secret = keys / f"{name}.key_secret"
    pair = KeyPair(*zmq.curve_keypair())
    _write(secret, pair.public, pair.secret, 0o600)
    _write(keys / "clients" / f"{name}.key", pair.public, None, 0o644)
    return secret


def _write(path: Path, public: bytes, secret: bytes | None, mode: int) -> None:
    lines = ["curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError as e:
        raise InvalidKey(f"the key {path} exists already: remove it first") from e
    except OSError as e:
        raise InvalidKey(f"cannot write the key {path}: {e.strerror}") from e


def _read(path: Path) -> dict[str, bytes]:
    try:
        found = dict(_LINE.findall(path.read_text()))
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidKey(f"cannot read the key {path}: {e}") from e
    return {name: value.encode() for name, value in found.items()}


def read_public(path: Path) -> bytes:
    """The public key of a file; raises `InvalidKey`."""
    key = _read(path).get("public-key")
    if key is None:
        raise InvalidKey(f"{path} holds no public key: make one with `python -m bus keys`")
    return key


def read_pair(path: Path) -> KeyPair:
    """The key pair of a file that only its owner may read; raises `InvalidKey`."""
    found = _read(path)
    if "public-key" not in found or "secret-key" not in found:
        raise InvalidKey(f"{path} holds no key pair: make one with `python -m bus keys`")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InvalidKey(f"the key {path} has mode {mode:04o}, others may use it: chmod 600 it")
    return KeyPair(found["public-key"], found["secret-key"])


class Authenticator:
    """Answers ZAP (RFC 27) for one context: a key listed in `clients/` now, or refused.

    Without it libzmq admits any client key, so it is started before anything is bound.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], clients: Path) -> None:
        self._clients = clients
        socket = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind("inproc://zeromq.zap.01")
        self._drained = Drained(socket, self._answer)

    def _allowed(self) -> set[bytes]:
        # Read at every handshake: they are rare, and a removed file must count at the next one.
        found = set()
        for path in self._clients.glob("*.key"):
            try:
                found.add(read_public(path))
            except InvalidKey as e:
                _log.warning("a client key was passed over: %s", e)
        return found

    def _answer(self, message: list[bytes]) -> None:
        try:
            split = message.index(b"")
            route, request = message[: split + 1], message[split + 1 :]
            version, name, _domain, address, _identity, mechanism = request[:6]
        except ValueError:
            return
        key = zmq.utils.z85.encode(request[6]) if mechanism == b"CURVE" and request[6:] else b""
        if version == b"1.0" and key and key in self._allowed():
            reply = [version, name, b"200", b"OK", key, b""]
        else:
            _log.warning("refused a client at %s: its key is not listed", address.decode())
            reply = [version, name, b"400", b"this key is not listed", b"", b""]
        self._drained.send([*route, *reply])

    def close(self) -> None:
        """Stop answering."""
        self._drained.close()
