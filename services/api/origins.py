"""Against pages of others: without a key, a request must be this machine's own in every respect.

A page from anywhere may let a browser send requests to the loopback. Two ways are known: its own
name may be made to mean 127.0.0.1 (DNS rebinding: the `Host` tells), and a form may be posted to
any address (the content type tells, and `Origin`, and `Sec-Fetch-Site`).
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from services.api.errors import Forbidden

__all__ = ["check"]

_READING: Final = frozenset({"GET", "HEAD"})


def check(request: Request) -> None:
    """Raise `Forbidden` for a request that a foreign page may have sent."""
    host = _host(f"//{request.headers.get('host', '')}")
    if not _is_local(host):
        raise Forbidden(
            f"the Host header says {host or 'nothing'!r}: without a key only localhost and "
            "loopback addresses are answered; make a key to serve under another name",
            code="host_not_allowed",
        )
    if request.method in _READING:
        return  # the browser shows its answer to no other origin
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != request.headers["host"]
    if foreign or request.headers.get("sec-fetch-site") == "cross-site":
        raise Forbidden(
            "a page of another origin may not do this without a key", code="origin_not_allowed"
        )


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False  # a name that must be looked up may be anybody's
