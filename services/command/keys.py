"""`consonance keys`: who may come in, by the HTTP API or by the bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, MANY, UNSAID, group, note, print_json, say, show, table
from services.command.place import HOME, Home

if TYPE_CHECKING:
    from services.api.keys import KeyStore

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance keys create search-box --scopes read feedback
        a key of the HTTP API: prints the token, once; only its SHA-256 is kept

    consonance keys client laptop
        a key of the bus over tcp: prints the file that goes to the client,
        who speaks as /laptop/... and as nobody else

    consonance keys client gpu-1 --role encoder --source /encoder/gpu-1
        for an encoder on another machine

    consonance keys list
    consonance keys revoke search-box
        a running fleet heeds it: the API from the next request on, the bus
        within a second or so

Scopes of the API: read (embeddings, skills, status, events), feedback (and
what people found), admin (all of it). Without any key everybody on this
machine may do everything, and nobody else anything; with one a key is always
needed.

Roles of the bus: see `consonance keys roles`. A client over tcp needs two
files: its pair (STATE/keys/laptop.key_secret, named by CONSONANCE_KEY) and the
broker's public key (STATE/keys/broker.key, CONSONANCE_SERVER_KEY).
"""

app = group("keys", "Make, list and revoke the keys of the HTTP API and of the bus.", _EXAMPLES)

_Scopes = Annotated[
    tuple[Literal["read", "feedback", "admin"], ...],
    Parameter(consume_multiple=True, negative="", show_default=False),
]


@app.command(help_epilogue=app.help_epilogue)
def create(
    name: str,
    /,
    *,
    scopes: _Scopes = ("read",),
    at: Home = HOME,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Make a key of the HTTP API and print its token, which is not kept and never told again.

    Parameters
    ----------
    name
        What people call it; letters, digits, dots, dashes and underscores
    scopes
        What it may do; each includes those before it: read, feedback, admin. Default: read
    json
        Write JSON
    """
    with _refusals():
        token = _store(at).create(name, scopes)
    if json:
        print_json({"name": name, "scopes": scopes, "token": token})
    else:
        say(token)
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def client(
    name: str,
    /,
    *,
    role: str = "client",
    source: Annotated[tuple[str, ...], MANY] = (),
    at: Home = HOME,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Make a key of the bus over tcp and print its file, which goes to the client.

    Parameters
    ----------
    name
        What people call it, and who it speaks as; letters, digits, dots, dashes and underscores
    role
        What it may do; `consonance keys roles` shows them
    source
        Who it may speak as where that is not its name: /encoder/gpu-1, or /shop/ for all below
    json
        Write JSON
    """
    from bus.access.command import made

    with _refusals():
        pair = made(_keys(at), name, role, source)
    if json:
        print_json({"name": name, "role": role, "file": str(pair)})
    else:
        say(str(pair))
    return DONE


@app.command(name="list", help_epilogue=app.help_epilogue)
def list_(*, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """List the keys of the API, without their tokens, which nobody has kept, and of the bus.

    Parameters
    ----------
    json
        Write JSON
    """
    from bus.access.command import listed, said

    with _refusals():
        keys = _store(at).list()
    clients = listed(_keys(at))
    if json:
        facts = [{"name": one.name, "scopes": one.scopes, "created": one.created} for one in keys]
        print_json({"keys": facts, "clients": [one._asdict() for one in clients]})
        return DONE
    if keys:
        rows = [(one.name, ", ".join(one.scopes), _day(one.created)) for one in keys]
        show(table("name", "scopes", "created", rows=rows, title="of the HTTP API"))
    else:
        note("there are no keys of the API: everybody on this machine may do everything with it")
    if clients:
        them = [(one.name, one.role, _day(one.since), said(one.sources)) for one in clients]
        show(table("name", "role", "since", "speaks as", rows=them, title="of the bus over tcp"))
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def revoke(
    name: str,
    /,
    *,
    of: Annotated[Literal["api", "bus"] | None, UNSAID] = None,
    at: Home = HOME,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Take a key back.

    Parameters
    ----------
    name
        The key
    of
        Whose key, where API and bus have one of that name
    json
        Write JSON
    """
    from bus.security import revoke as revoke_client

    with _refusals():
        store, keys = _store(at), _keys(at)
        here = any(one.name == name for one in store.list())
        there = (keys / "clients" / f"{name}.key").exists()
        if of is None and here and there:
            raise InputRefused(f"the API and the bus have a key {name!r}: say --of api or --of bus")
        if of == "bus" or (of is None and not here):
            revoke_client(keys, name)
            return _revoked({"name": name, "of": "bus"}, json=json)
        gone = store.revoke(name)
        left = len(store.list())
    _revoked({"name": gone.name, "of": "api", "left": left}, json=json)
    if not left and not json:
        note("that was the last key: everybody on this machine may do everything now")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def roles(*, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """Show the roles of the bus, ready-made ones and your own, as they may stand in a file.

    Parameters
    ----------
    json
        Write JSON
    """
    from bus.access.command import shown
    from bus.access.roles import load_roles

    with _refusals():
        found = load_roles(_keys(at) / "roles.toml").values()
    if json:
        print_json({"roles": list(found)})
    else:
        say("\n".join(shown(role) for role in found).rstrip("\n"))
    return DONE


def _revoked(facts: dict[str, Any], *, json: bool) -> int:
    if json:
        print_json(facts)
    else:
        say(f"{facts['name']} is revoked")
    return DONE


def _day(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _keys(at: Home) -> Path:
    return at.folder / "keys"


def _store(at: Home) -> KeyStore:
    from services.api.keys import KeyStore

    return KeyStore.of(at.folder)


@contextmanager
def _refusals() -> Iterator[None]:
    """What the keys' own modules refuse is refused input here as well."""
    from bus import InvalidKey, InvalidRoles
    from services.api.errors import KeysError

    try:
        yield
    except (KeysError, InvalidKey, InvalidRoles) as error:
        raise InputRefused(str(error)) from error
