"""One operation of the API: its route, its scope and its document are made from the same object."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["JSON", "Handler", "Operation", "Query", "Scope"]

Scope = Literal["read", "feedback", "admin"]
"""What a key may do; an operation with None asks nobody for a key."""

Handler = Callable[[Request], Awaitable[Response]]

JSON: Final = "application/json"

_CONVERTER = re.compile(r"\{(\w+):\w+\}")


@dataclass(frozen=True)
class Query:
    """A parameter in the query string or, with `header`, in a header; never required."""

    name: str
    text: str
    """What it means, for the document."""
    schema: type[Any] | object = str
    """The type of its value, as msgspec understands it."""
    place: Literal["query", "header"] = "query"


@dataclass(frozen=True)
class Operation:
    """What answers one method on one path."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    """As Starlette takes it: `/v1/skills/{name}`, `/v1/skills/{name:path}`."""
    handler: Handler
    scope: Scope | None
    summary: str
    """A few words, for the list of operations."""
    description: str = ""
    """Whole sentences, in Markdown."""
    takes: type[Any] | None = None
    """The Struct of the JSON body, where there is one."""
    gives: type[Any] | None = None
    """The Struct of the JSON answer; None where the answer is no JSON."""
    status: int = 200
    """The status of the answer where all goes well."""
    media: str = JSON
    """The media type of that answer."""
    query: tuple[Query, ...] = ()
    tag: str = "embeddings"
    """The group that it stands in, in the document."""
    costly: bool = True
    """False: answered however many requests are at work, as a health check must be."""
    finishes: bool = False
    """True: carried through even where the caller goes away meanwhile, as what is journaled."""
    lasting: bool = False
    """True for a stream: it is no request at work, and its handler bounds how many there are."""

    @property
    def name(self) -> str:
        """The handler's name; unique, and the `operationId` of the document."""
        return self.handler.__name__

    @property
    def template(self) -> str:
        """The path as a document writes it, without Starlette's converters."""
        return _CONVERTER.sub(r"{\1}", self.path)
