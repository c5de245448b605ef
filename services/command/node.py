"""`consonance key`, `trust` and `authority`: a node's identity, as federation's own command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Final, ParamSpec

from cyclopts import App

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, UNSAID, group, print_json
from services.command.place import HOME, Home
from services.errors import ServiceError
from services.federation import commands
from services.federation import trust as trust_file
from services.federation.identity import fingerprint_of

__all__ = ["authority", "key", "trust"]

P = ParamSpec("P")

_KEY_EXAMPLES: Final = """
Examples:

    consonance key
        public key, fingerprint and name of the node in .consonance

    consonance key --state ~/consonance --json
        the same for programs, of another state folder
"""

_TRUST_EXAMPLES: Final = """
Examples:

    consonance trust add ed25519:… laptop
        accept that node's skills; a running fleet heeds it at once

    consonance trust list
    consonance trust remove laptop
        by its name, its fingerprint or its public key
"""

_AUTHORITY_EXAMPLES: Final = """
Examples:

    consonance authority create ./ca
        once, on one machine; authority.key stays there

    consonance authority issue ./ca --state .consonance
        the certificate of the node on this machine

    consonance authority issue ./ca b --out ./b
        that of node b on another machine, for STATE/keys/tls there
"""


@contextmanager
def _refusals() -> Iterator[None]:
    """What federation refuses is refused input here as well."""
    try:
        yield
    except ServiceError as error:
        raise InputRefused(str(error)) from error


def _refusing(command: Callable[P, int]) -> Callable[P, int]:
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        with _refusals():
            return command(*args, **kwargs)

    return run


def _offered(made: App, name: str, command: Callable[..., int]) -> None:
    made.command(_refusing(command), name=name, help_epilogue=made.help_epilogue)


key = group("key", "Show this node's public key, fingerprint and name.", _KEY_EXAMPLES)
key.default(_refusing(commands.key))

trust = group("trust", "Whose skills this node accepts.", _TRUST_EXAMPLES)
_offered(trust, "list", commands.list_)


@trust.command(help_epilogue=trust.help_epilogue)
def add(
    public: str,
    name: Annotated[str, UNSAID] = "",
    /,
    *,
    at: Home = HOME,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Accept the skills of an author.

    Parameters
    ----------
    public
        The author's public key, as `consonance key` shows it there
    name
        What people call it; given again, it is called so from then on
    json
        Write JSON
    """
    if not json:
        return _refusing(commands.add)(public, name, state=at.folder)
    with _refusals():
        new = trust_file.add(at.folder / "keys" / "trusted", public, name)
    print_json({"public": public, "fingerprint": fingerprint_of(public), "name": name, "new": new})
    return DONE


@trust.command(help_epilogue=trust.help_epilogue)
def remove(who: str, /, *, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """Accept the skills of an author no longer.

    Parameters
    ----------
    who
        Its public key, its fingerprint or its name
    json
        Write JSON
    """
    if not json:
        return _refusing(commands.remove)(who, state=at.folder)
    with _refusals():
        gone = trust_file.remove(at.folder / "keys" / "trusted", who)
    print_json({"removed": [{"public": one.public, "name": one.name} for one in gone]})
    return DONE


authority = group("authority", "Certificates for mutual TLS between nodes.", _AUTHORITY_EXAMPLES)
_offered(authority, "create", commands.create)
_offered(authority, "issue", commands.issue)
