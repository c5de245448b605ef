"""`consonance keys`: the bearer keys of the HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, group, note, print_json, say, show, table
from services.command.place import HOME, Home

if TYPE_CHECKING:
    from services.api.keys import KeyStore

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance keys create search-box --scopes read feedback
        prints the token, once; only its SHA-256 is kept

    consonance keys list
    consonance keys revoke search-box
        a running fleet heeds it from the next request on

Scopes: read (embeddings, skills, status, events), feedback (and what people
found), admin (all of it). Without any key everybody on this machine may do
everything, and nobody else anything; with one a key is always needed.
"""

app = group("keys", "Make, list and revoke the keys of the HTTP API.", _EXAMPLES)

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
    """Make a key and print its token, which is not kept and never told again.

    Parameters
    ----------
    name
        What people call it; letters, digits, dots, dashes and underscores
    scopes
        What it may do; each includes those before it: read, feedback, admin. Default: read
    json
        Write JSON
    """
    with _store(at) as store:
        token = store.create(name, scopes)
    if json:
        print_json({"name": name, "scopes": scopes, "token": token})
    else:
        say(token)
    return DONE


@app.command(name="list", help_epilogue=app.help_epilogue)
def list_(*, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """List the keys, without their tokens, which nobody has kept.

    Parameters
    ----------
    json
        Write JSON
    """
    with _store(at) as store:
        keys = store.list()
    facts = [{"name": one.name, "scopes": one.scopes, "created": one.created} for one in keys]
    if json:
        print_json({"keys": facts})
    elif keys:
        rows = [
            (one.name, ", ".join(one.scopes), f"{one.created.astimezone():%Y-%m-%d %H:%M}")
            for one in keys
        ]
        show(table("name", "scopes", "created", rows=rows))
    else:
        note("there are no keys: everybody on this machine may do everything")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def revoke(name: str, /, *, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """Take a key back.

    Parameters
    ----------
    name
        The key
    json
        Write JSON
    """
    with _store(at) as store:
        gone = store.revoke(name)
        left = len(store.list())
    if json:
        print_json({"name": gone.name, "left": left})
        return DONE
    say(f"{gone.name} is revoked")
    if not left:
        note("that was the last key: everybody on this machine may do everything now")
    return DONE


@contextmanager
def _store(at: Home) -> Iterator[KeyStore]:
    from services.api.errors import KeysError
    from services.api.keys import KeyStore

    try:
        yield KeyStore.of(at.folder)
    except KeysError as error:
        raise InputRefused(str(error)) from error
