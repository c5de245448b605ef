"""`python -m bus keys`: make, list and revoke the keys of a bus on tcp, and show the roles.

`consonance keys` does the same by the same functions.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from bus.access.keys import Admission, clashing, read_admissions
from bus.access.rights import Sources
from bus.access.roles import Role, load_roles
from bus.errors import InvalidKey
from bus.security import check_name, make_broker_keys, make_client_keys, revoke

__all__ = ["Listed", "add_parser", "listed", "made", "run", "said", "shown"]


class Listed(NamedTuple):
    """A key that is admitted, for people."""

    name: str
    role: str
    since: datetime
    """When it was admitted, or last changed; of this machine's time zone."""
    sources: Sources


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words after `keys`."""
    about = __doc__.partition("\n")[0]
    keys = commands.add_parser("keys", help="who may come in over tcp", description=about)
    kinds = keys.add_subparsers(dest="kind", required=True)
    for kind, text in (
        ("broker", "make the broker's pair"),
        ("client", "make a client's pair, admitted under a role"),
        ("list", "list the keys that are admitted"),
        ("revoke", "admit a key no longer: its connections end within some seconds"),
        ("roles", "show the roles, ready-made and own ones"),
    ):
        made = kinds.add_parser(kind, help=text, description=text)
        made.add_argument("--state", type=Path, default=argparse.SUPPRESS, help="state folder")
        if kind in ("client", "revoke"):
            made.add_argument("name", help="letters, digits, '.', '_' and '-'")
        if kind == "client":
            made.add_argument("--role", default="client", help="see `keys roles` (%(default)s)")
            made.add_argument(
                "--source",
                action="append",
                default=[],
                help="who it may speak as: /encoder/gpu-1, or /shop/ for all below (/NAME/)",
            )


def run(arguments: argparse.Namespace) -> None:
    """Do what was asked for; raises `InvalidKey`, `InvalidRoles`."""
    keys: Path = arguments.state / "keys"
    if arguments.kind == "broker":
        print(make_broker_keys(keys))
    elif arguments.kind == "client":
        print(made(keys, arguments.name, arguments.role, arguments.source))
    elif arguments.kind == "revoke":
        revoke(keys, arguments.name)
    elif arguments.kind == "list":
        for one in listed(keys):
            print(f"{one.name:<20} {one.role:<10} {one.since:%Y-%m-%d %H:%M}  {said(one.sources)}")
    else:
        print("\n".join(shown(role) for role in load_roles(keys / "roles.toml").values()))


def made(keys: Path, name: str, role: str, sources: Sequence[str]) -> Path:
    """A new client's pair, once it is sure that the key will be admitted; the path of its file.

    Raises `InvalidKey`, `InvalidRoles`.
    """
    check_name(name, sources)
    roles = load_roles(keys / "roles.toml")
    if role not in roles:
        raise InvalidKey(f"there is no role {role!r}: there are {', '.join(roles)}")
    one = Admission(name, b"", role, tuple(sources) or (f"/{name}/",))
    other = clashing(one, read_admissions(keys / "clients"), roles)
    if other is not None:
        raise InvalidKey(
            f"answers to {said(one.sources)} could not be told from those to the key {other!r}:"
            " no name may be the beginning of another's, up to a '-'"
        )
    return make_client_keys(keys, name, role=role, sources=sources)


def listed(keys: Path) -> list[Listed]:
    """Every key that is admitted, by name; one that cannot be used is logged, and passed over."""
    found = []
    for name, one in read_admissions(keys / "clients").items():
        with contextlib.suppress(FileNotFoundError):  # revoked this very moment
            changed = (keys / "clients" / f"{name}.key").stat().st_mtime
            since = datetime.fromtimestamp(changed).astimezone()
            found.append(Listed(name, one.role, since, one.sources))
    return found


def said(sources: Sources) -> str:
    """Who a key may speak as, for people."""
    return " ".join(f"{one}…" if one.endswith("/") else one for one in sources)


def shown(role: Role) -> str:
    """As it stands, or might stand, in roles.toml."""
    lines = [f"[{role.name}]"]
    for field, value in msgspec.structs.asdict(role).items():
        if field == "name" or value in ("", (), None):
            continue
        if isinstance(value, tuple):
            lines += [f"{field} = [", *(f'    "{one}",' for one in value), "]"]
        else:
            lines.append(f'{field} = "{value}"' if isinstance(value, str) else f"{field} = {value}")
    return "\n".join(lines) + "\n"
