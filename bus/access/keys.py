"""The keys that are admitted: what each may do, as the files say now.

STATE/keys/clients/NAME.key      a public key, its role and its sources; removed, it is revoked
STATE/keys/roles.toml            roles of one's own
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bus.access.quota import Once, Quota
from bus.access.rights import ANY, Grant, Sources, address_patterns, overlap
from bus.access.roles import CLIENT, READY, Role, load_roles
from bus.errors import InsecureFolder, InvalidKey, InvalidRoles
from bus.security import read_client

__all__ = ["Admission", "Ring", "clashing", "read_admission", "read_admissions"]

SECONDS_OUT = 60.0
"""How long a key is refused whose client spoke what no client speaks."""
SCANS = 20
"""Looks at all files within a second that strangers can cause."""

_log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]


class Admission(NamedTuple):
    """One file of `clients/`."""

    name: str
    public: bytes
    role: str
    sources: Sources


def read_admission(path: Path) -> Admission:
    """What a file of `clients/` says; raises `InvalidKey`."""
    try:
        found = path.stat()
    except OSError as e:
        raise InvalidKey(f"cannot read the key {path}: {e.strerror}") from e
    if found.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(found.st_mode) & 0o022:
        raise InvalidKey(f"the key {path} may be changed by others: it admits nobody")
    public, attributes = read_client(path)
    sources = tuple(attributes.get("source", ())) or (f"/{path.stem}/",)
    (role,) = attributes.get("role", [CLIENT.name])[:1]
    return Admission(path.stem, public, role, sources)


def read_admissions(clients: Path) -> dict[str, Admission]:
    """Every key that is admitted, by name; a file that cannot be used is logged, passed over."""
    found = {}
    for path in sorted(clients.glob("*.key")):
        try:
            found[path.stem] = read_admission(path)
        except InvalidKey as e:
            _log.warning("a client key was passed over: %s", e)
    return found


def clashing(
    one: Admission, others: Mapping[str, Admission], roles: Mapping[str, Role]
) -> str | None:
    """The name of a key whose answers could not be told from this one's; None where there is none.

    Who hears everybody's answers has no secrets from them: a place within theirs may be another's.
    """
    for other in others.values():
        if other.name == one.name or ANY in (*one.sources, *other.sources):
            continue
        if not overlap(one.sources, other.sources):
            continue
        if _hears_all(one, roles) and _hears_all(other, roles):
            continue
        if _hears_all(one, roles) and not _reaches(other.sources, one.sources):
            continue
        if _hears_all(other, roles) and not _reaches(one.sources, other.sources):
            continue
        return other.name
    return None


def _hears_all(one: Admission, roles: Mapping[str, Role]) -> bool:
    role = roles.get(one.role)
    return role is not None and bool(role.heard()[1])


def _reaches(ours: Sources, theirs: Sources) -> bool:
    """Whether what we hear covers a whole pattern of theirs."""
    return any(
        other.startswith(one)
        for one in address_patterns(ours)
        for other in address_patterns(theirs)
    )


class Ring:
    """Who is admitted; `look` again now and then, and `changed` hears whose rights are others now.

    Raises `InvalidRoles` and `InsecureFolder` when it is made; what becomes unusable later is
    logged, and leaves everybody the rights that they had.
    """

    def __init__(
        self,
        keys: Path,
        changed: Callable[[frozenset[str]], None] = lambda names: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.grants: dict[str, Grant] = {}
        """What each key may do, by its name; who is not in it may do nothing."""
        self._clients = keys / "clients"
        self._roles_file = keys / "roles.toml"
        self._changed = changed
        self._clock = clock
        self._stamps: dict[str, _Stamp] = {}
        self._roles_stamp: _Stamp | None = None
        self._roles: Mapping[str, Role] = READY
        self._admissions: dict[str, Admission] = {}
        self._names: dict[bytes, str] = {}
        self._quotas: dict[str, Quota] = {}
        self._asked: dict[str, Once] = {}
        self._out: dict[str, float] = {}
        self._scans = float(SCANS)
        self._scanned = clock()
        self._clients.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (keys, self._clients):
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & 0o022:
                raise InsecureFolder(
                    f"the folder {folder} has mode {mode:04o}, others may admit keys: chmod 700 it"
                )
        self._roles = load_roles(self._roles_file)
        self._roles_stamp = _stamp(self._roles_file)
        self.look()

    def admitted(self, public: bytes) -> str | None:
        """The name of the key that may come in now; None for a stranger."""
        name = self._names.get(public)
        if name is not None and _stamp(self._path(name)) == self._stamps.get(name):
            return name if name in self.grants else None
        now = self._clock()
        self._scans = min(self._scans + (now - self._scanned) * SCANS, float(SCANS))
        self._scanned = now
        if self._scans < 1:  # strangers knock: the next look is not far
            return None
        self._scans -= 1
        self.look()
        name = self._names.get(public)
        return name if name in self.grants else None

    def put_out(self, name: str) -> None:
        """Refuse a key for a minute."""
        self._out[name] = self._clock() + SECONDS_OUT
        if self.grants.pop(name, None) is not None:
            self._changed(frozenset((name,)))

    def look(self) -> None:
        """Read what has changed since."""
        again = self._look_at_roles()
        stamps = {}
        for path in self._clients.glob("*.key"):
            stamp = _stamp(path)
            if stamp is not None:
                stamps[path.stem] = stamp
        now = self._clock()
        back = {name for name, end in self._out.items() if end <= now}
        for name in back:
            del self._out[name]
        if stamps != self._stamps or again or back:
            self._stamps = stamps
            self._admissions = read_admissions(self._clients)
            self._make()

    def _path(self, name: str) -> Path:
        return self._clients / f"{name}.key"

    def _look_at_roles(self) -> bool:
        stamp = _stamp(self._roles_file)
        if stamp == self._roles_stamp:
            return False
        self._roles_stamp = stamp
        try:
            self._roles = load_roles(self._roles_file)
        except InvalidRoles as e:
            _log.error("the roles stay what they were: %s", e)
            return False
        return True

    def _make(self) -> None:
        made: dict[str, Grant] = {}
        names: dict[bytes, str] = {}
        placed: dict[str, Admission] = {}
        for one in sorted(
            self._admissions.values(), key=lambda one: (not _hears_all(one, self._roles), one.name)
        ):
            grant = self._grant(one, placed)
            if names.setdefault(one.public, one.name) != one.name:
                _log.warning("the key %r is %r's: not admitted twice", one.name, names[one.public])
            elif grant is not None:
                made[one.name] = grant
                placed[one.name] = one
        changed = {
            name
            for name in made.keys() | self.grants.keys()
            if _rights(made.get(name)) != _rights(self.grants.get(name))
        }
        kept = {name: made[name] if name in changed else self.grants[name] for name in made}
        self.grants.clear()
        self.grants.update(kept)
        self._names = names
        if changed:
            self._changed(frozenset(changed))

    def _grant(self, admission: Admission, others: Mapping[str, Admission]) -> Grant | None:
        name = admission.name
        if name in self._out:
            return None
        role = self._roles.get(admission.role)
        if role is None:
            _log.warning("the key %r is not admitted: there is no role %r", name, admission.role)
            return None
        other = clashing(admission, others, self._roles)
        if other is not None:
            _log.warning("the key %r is not admitted: its answers would be %r's", name, other)
            return None
        quota = self._quotas.get(name)
        if quota is None or quota.most != role.feedback_per_hour:
            quota = self._quotas[name] = Quota(role.feedback_per_hour, self._clock)
        asked = self._asked.get(name)
        if asked is None or asked.most != role.texts_per_minute:
            asked = self._asked[name] = Once(role.texts_per_minute, self._clock)
        return Grant(name, role, admission.sources, quota, asked)


def _rights(grant: Grant | None) -> tuple[Role, Sources] | None:
    return None if grant is None else (grant.role, grant.sources)


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
