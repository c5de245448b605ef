"""Bearer keys of the API: random tokens of which only the SHA-256 is kept.

    {"keys": [{"name": "search", "sha256": "…", "scopes": ["read"], "created": "…"}]}

A scope includes those before it: `read` < `feedback` < `admin`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, get_args

import msgspec

from schemas import now
from services.api.errors import KeysError
from services.api.operation import Scope

__all__ = ["PREFIX", "SCOPES", "ApiKey", "KeyStore"]

PREFIX: Final = "csn_"
"""What a token begins with, so that a leaked one is recognised."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""The least first; each includes those before it."""

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_LIMIT: Final = 1 << 20
"""Bytes above which the file is none of ours."""

_Stamp = tuple[int, int, int]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: nothing in it opens a door."""

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    """Of the whole token, prefix included."""
    scopes: tuple[Scope, ...]
    created: datetime

    def allows(self, scope: Scope) -> bool:
        """Whether it reaches as far as `scope`."""
        return any(SCOPES.index(one) >= SCOPES.index(scope) for one in self.scopes)


class _File(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[ApiKey, ...] = ()


class KeyStore:
    """The keys in one file, mode 0600; what another process writes there counts at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Stamp | None = None
        self._keys: dict[str, ApiKey] = {}

    @classmethod
    def of(cls, state: Path) -> KeyStore:
        """The keys of the fleet whose state folder this is."""
        return cls(state / "keys" / "api.json")

    def list(self) -> tuple[ApiKey, ...]:
        """Every key, the oldest first; raises `KeysError` where the file cannot be used."""
        return tuple(self._current().values())

    def find(self, token: str) -> ApiKey | None:
        """The key of a token, None where it is not known; raises `KeysError`."""
        return self._current().get(_hashed(token))

    def create(self, name: str, scopes: Iterable[str]) -> str:
        """Make a key; returns its token, which is not kept and never told again.

        Raises `KeysError`: the name is taken or malformed, a scope is unknown, or none is given.
        """
        if re.fullmatch(_NAME, name) is None:
            raise KeysError(f"a key's name must match {_NAME}, not {name!r}")
        wanted = frozenset(scopes)
        if not wanted or not wanted <= set(SCOPES):
            raise KeysError(
                f"scopes are some of {', '.join(SCOPES)}, not {', '.join(sorted(wanted)) or 'none'}"
            )
        token = PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            name=name,
            sha256=_hashed(token),
            scopes=tuple(scope for scope in SCOPES if scope in wanted),
            created=now(),
        )
        with self._locked():
            keys = self.list()
            if any(other.name == name for other in keys):
                raise KeysError(f"there is a key {name!r} already: revoke it, or choose another")
            self._write((*keys, key))
        return token

    def revoke(self, name: str) -> ApiKey:
        """Take a key back, from the next request on; raises `KeysError` where there is none."""
        with self._locked():
            keys = self.list()
            found = [key for key in keys if key.name == name]
            if not found:
                known = ", ".join(repr(key.name) for key in keys) or "none"
                raise KeysError(f"there is no key {name!r}; known are {known}")
            self._write(tuple(key for key in keys if key.name != name))
        return found[0]

    def _current(self) -> dict[str, ApiKey]:
        try:
            with open(self.path, "rb", opener=_opener) as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_ino, status.st_ctime_ns, status.st_size)
                if stamp != self._seen:
                    self._keys = self._read(file.read(_LIMIT + 1), status.st_mode)
                    self._seen = stamp
        except FileNotFoundError:
            self._keys, self._seen = {}, None
        except OSError as error:
            raise KeysError(f"{self.path} cannot be read: {error.strerror}") from error
        return self._keys

    def _read(self, raw: bytes, mode: int) -> dict[str, ApiKey]:
        if mode & 0o077:
            raise KeysError(
                f"{self.path} has mode {mode & 0o7777:04o}, others may use it: chmod 600 it"
            )
        if len(raw) > _LIMIT:
            raise KeysError(f"{self.path} has more than {_LIMIT} bytes: it is none of ours")
        try:
            found = msgspec.json.decode(raw, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeysError(f"{self.path} is no list of keys: {error}") from error
        return {key.sha256: key for key in found.keys}

    def _write(self, keys: tuple[ApiKey, ...]) -> None:
        """Another file in its place, at once and as a whole."""
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.tmp")
        text = msgspec.json.format(msgspec.json.encode(_File(keys=keys)))
        try:
            handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        except OSError as error:
            raise KeysError(f"{self.path} cannot be written: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file among all who change it: read, change, write."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KeysError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _opener(path: str, flags: int) -> int:
    # Opening a pipe that nobody writes to would wait for ever.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
