"""CURVE: keys and their files, and the authenticator that admits clients by an allow-list.

STATE/keys/broker.key_secret     the broker's pair, 0600
STATE/keys/broker.key            its public key: clients get a copy (CONSONANCE_SERVER_KEY)
STATE/keys/NAME.key_secret       a client's pair, 0600: goes to the client (CONSONANCE_KEY)
STATE/keys/clients/NAME.key      its public key, role and sources: who is listed here is admitted
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.utils.z85

from bus.errors import InvalidKey
from bus.seldom import Seldom, shown
from bus.sockets import Drained

__all__ = [
    "ADMITTED",
    "NOT_NOW",
    "SERIAL",
    "STRANGER",
    "Authenticator",
    "KeyPair",
    "admit",
    "check_name",
    "make_broker_keys",
    "make_client_keys",
    "pair_of",
    "read_client",
    "read_pair",
    "read_public",
    "revoke",
    "speaker",
]

ADMITTED, NOT_NOW, STRANGER = b"200", b"300", b"400"
"""Statuses of ZAP. libzmq tells a stranger, whose client then never comes again; who may not come
in now hears nothing until the time for a handshake is over, and does."""
SERIAL = "Serial"
"""The property of every message that tells one admitted connection from another."""
_PART = r"[A-Za-z0-9_.](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_.])?"
NAME = re.compile(r"(?=[A-Za-z0-9])" + _PART)
SOURCE = re.compile(rf"/|/{_PART}(?:/{_PART})*/?")
_LINE = re.compile(r'^\s*([a-z-]+)\s*=\s*"([^"\n]*)"\s*$', re.MULTILINE)
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
        _write(keys / "broker.key_secret", pair.public, pair.secret)
        public.unlink(missing_ok=True)
        _write(public, pair.public, None, mode=0o644)
    return public


def make_client_keys(
    keys: Path, name: str, *, role: str = "client", sources: Sequence[str] = ()
) -> Path:
    """A new client's pair, its public key admitted; the path of the pair's file.

    `sources`: who it may speak as, `/laptop/` for everything below; by default that of its name.
    Raises `InvalidKey` for a name that exists already or cannot be a file's name.
    """
    check_name(name, sources)
    secret = keys / f"{name}.key_secret"
    pair = KeyPair(*zmq.curve_keypair())
    _write(secret, pair.public, pair.secret, source=tuple(sources) or (f"/{name}/",))
    admit(keys, name, role=role, sources=sources)
    return secret


def admit(keys: Path, name: str, *, role: str, sources: Sequence[str] = ()) -> None:
    """Let a pair that is there in, or in under another role; raises `InvalidKey`."""
    check_name(name, sources)
    public = read_pair(keys / f"{name}.key_secret").public
    _write(
        keys / "clients" / f"{name}.key",
        public,
        None,
        again=True,
        role=(role,),
        source=tuple(sources) or (f"/{name}/",),
    )


def revoke(keys: Path, name: str) -> None:
    """Admit a key no longer, and forget its pair if that is here; raises `InvalidKey`."""
    admitted, pair = keys / "clients" / f"{name}.key", keys / f"{name}.key_secret"
    if not NAME.fullmatch(name) or name == "broker" or not (admitted.exists() or pair.exists()):
        raise InvalidKey(f"there is no key {name!r} to revoke")
    try:
        admitted.unlink(missing_ok=True)
        pair.unlink(missing_ok=True)
    except OSError as e:
        raise InvalidKey(f"cannot revoke the key {name}: {e.strerror}") from e


def check_name(name: str, sources: Sequence[str]) -> None:
    """Raise `InvalidKey` where this can be no client's name, or none of its sources."""
    if not NAME.fullmatch(name) or name == "broker":
        raise InvalidKey(f"{name!r} cannot name a client: letters, digits, '.', '_' and '-'")
    for source in sources:
        if not SOURCE.fullmatch(source):
            raise InvalidKey(
                f"{source!r} is no source: /{name}/ for all below it, or /{name}/1 for that one"
            )
        if source.startswith("/broker/"):
            raise InvalidKey("nobody speaks as the broker but itself")


def _write(
    path: Path,
    public: bytes,
    secret: bytes | None,
    *,
    mode: int = 0o600,
    again: bool = False,
    **attributes: Sequence[str],
) -> None:
    """As a certificate of ZeroMQ's; whole or not at all, so that nobody reads half of it."""
    lines = ["metadata"] if attributes else []
    lines += [f'    {name} = "{value}"' for name, values in attributes.items() for value in values]
    lines += ["curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
            file.write("\n".join(lines) + "\n")
        os.replace(beside, path) if again else os.link(beside, path)
    except FileExistsError as e:
        raise InvalidKey(f"the key {path} exists already: remove it first") from e
    except OSError as e:
        raise InvalidKey(f"cannot write the key {path}: {e.strerror}") from e
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _read(path: Path) -> Mapping[str, Sequence[str]]:
    try:
        found = _LINE.findall(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidKey(f"cannot read the key {path}: {e}") from e
    attributes: dict[str, list[str]] = {}
    for name, value in found:
        attributes.setdefault(name, []).append(value)
    return attributes


def _key(attributes: Mapping[str, Sequence[str]], name: str) -> bytes | None:
    (value, *more) = attributes.get(name, [""])
    return value.encode() if len(value) == 40 and value.isascii() and not more else None


def read_public(path: Path) -> bytes:
    """The public key of a file; raises `InvalidKey`."""
    return read_client(path)[0]


def read_client(path: Path) -> tuple[bytes, Mapping[str, Sequence[str]]]:
    """The public key of a file, and what else it says; raises `InvalidKey`."""
    attributes = _read(path)
    key = _key(attributes, "public-key")
    if key is None:
        raise InvalidKey(f"{path} holds no public key: make one with `python -m bus keys`")
    for source in attributes.get("source", ()):
        if not SOURCE.fullmatch(source) or source.startswith("/broker/"):
            raise InvalidKey(f"{path} names {source!r}, which is no source of a client's")
    return key, attributes


def read_pair(path: Path) -> KeyPair:
    """The key pair of a file that only its owner may read; raises `InvalidKey`."""
    attributes = _read(path)
    public, secret = _key(attributes, "public-key"), _key(attributes, "secret-key")
    if public is None or secret is None:
        raise InvalidKey(f"{path} holds no key pair: make one with `python -m bus keys`")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InvalidKey(f"the key {path} has mode {mode:04o}, others may use it: chmod 600 it")
    return KeyPair(public, secret)


def pair_of(place: Path, source: str) -> Path:
    """The file of a key pair; in a folder of several, that of whoever speaks as `source`."""
    if not place.is_dir():
        return place
    return place / f"{source.strip('/').partition('/')[0]}.key_secret"


def speaker(pair: Path) -> str:
    """What the pair's owner may speak as: a source, or all below it where it ends in `/`.

    Raises `InvalidKey`.
    """
    return next(iter(_read(pair).get("source", ())), f"/{pair.stem}/")


class Authenticator:
    """Answers ZAP (RFC 27) for one context: a key that is admitted now, or refused.

    `judge` is told a public key and the domain of a socket; it finds the status, and with
    `ADMITTED` the key's name, which every message of the connection then bears as its `User-Id`,
    else why not. Without an authenticator libzmq admits any key, so it is started before anything
    is bound. A connection's `SERIAL` is the next of `numbers`.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        judge: Callable[[bytes, str], tuple[bytes, str]],
        numbers: Iterator[int],
    ) -> None:
        self._judge = judge
        self._numbers = numbers
        self._refused = Seldom(_log)
        socket = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.bind("inproc://zeromq.zap.01")
        self._drained = Drained(socket, self._answer)

    def _answer(self, message: list[bytes]) -> None:
        try:
            split = message.index(b"")
            route, request = message[: split + 1], message[split + 1 :]
            version, name, domain, address, _identity, mechanism = request[:6]
        except ValueError:
            return
        status, said = STRANGER, "it has no key"
        if version == b"1.0" and mechanism == b"CURVE" and request[6:]:
            key = zmq.utils.z85.encode(request[6])
            status, said = self._judge(key, domain.decode())
        if status == ADMITTED:
            serial = b"%d" % next(self._numbers)
            property_ = struct.pack(">B6sI", 6, SERIAL.encode(), len(serial)) + serial
            reply = [version, name, status, b"OK", said.encode(), property_]
        else:
            who = shown(address.decode(errors="replace"))
            self._refused.warning("refused a client at %s: %s", who, said)
            reply = [version, name, status, b"no", b"", b""]
        self._drained.send([*route, *reply])

    def close(self) -> None:
        """Stop answering."""
        self._drained.close()
