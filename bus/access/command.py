"""`python -m bus keys`: make, list and revoke the keys of a bus on tcp, and show the roles."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from bus.access.keys import Admission, clashing, read_admissions
from bus.access.roles import Role, load_roles
from bus.errors import InvalidKey
from bus.security import check_name, make_broker_keys, make_client_keys, revoke

__all__ = ["add_parser", "made", "run", "said"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The words after `keys`."""
    keys = commands.add_parser("keys", help="who may come in over tcp", description=__doc__)
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
        for name, admission in read_admissions(keys / "clients").items():
            when = datetime.fromtimestamp((keys / "clients" / f"{name}.key").stat().st_mtime)
            print(f"{name:<20} {admission.role:<10} {when:%Y-%m-%d %H:%M}  {said(admission)}")
    else:
        print("\n".join(_shown(role) for role in load_roles(keys / "roles.toml").values()))


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
            f"answers to {said(one)} could not be told from those to the key {other!r}:"
            " no name may be the beginning of another's, up to a '-'"
        )
    return make_client_keys(keys, name, role=role, sources=sources)


def said(admission: Admission) -> str:
    """Who a key may speak as, for people."""
    return " ".join(f"{one}…" if one.endswith("/") else one for one in admission.sources)


def _shown(role: Role) -> str:
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
