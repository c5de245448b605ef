"""`consonance key`, `trust` and `authority`: a node's identity, as federation's own command."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec

from cyclopts import App

from services.command.errors import InputRefused
from services.command.kit import group
from services.errors import ServiceError
from services.federation import commands

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


def _refusing(command: Callable[P, int]) -> Callable[P, int]:
    """What it refuses is refused input here as well."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except ServiceError as error:
            raise InputRefused(str(error)) from error

    return run


def _offered(made: App, name: str, command: Callable[..., int]) -> None:
    made.command(_refusing(command), name=name, help_epilogue=made.help_epilogue)


key = group("key", "Show this node's public key, fingerprint and name.", _KEY_EXAMPLES)
key.default(_refusing(commands.key))

trust = group("trust", "Whose skills this node accepts.", _TRUST_EXAMPLES)
_offered(trust, "add", commands.add)
_offered(trust, "remove", commands.remove)
_offered(trust, "list", commands.list_)

authority = group("authority", "Certificates for mutual TLS between nodes.", _AUTHORITY_EXAMPLES)
_offered(authority, "create", commands.create)
_offered(authority, "issue", commands.issue)
