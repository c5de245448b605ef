"""What a server asks of who connects, as the environment names it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

from bus.errors import InvalidKey
from bus.nats.names import Place

__all__ = ["credentials"]


def credentials(place: Place) -> dict[str, Any]:
    """Options of the connection; raises `InvalidKey`.

    `CONSONANCE_NATS_USER` and `CONSONANCE_NATS_PASSWORD` are what they say, where the URL says
    nothing of it; `CONSONANCE_NATS_CREDS` names a .creds file, `CONSONANCE_NATS_CA` the authority
    that signed the server's certificate, `CONSONANCE_NATS_CERT` and `CONSONANCE_NATS_KEY` one of
    our own.
    """
    found: dict[str, Any] = {}
    creds = _file("CONSONANCE_NATS_CREDS")
    if creds is not None:
        try:
            import nkeys  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        except ImportError as e:
            raise InvalidKey("a .creds file needs one more package: pip install nkeys") from e
        found["user_credentials"] = str(creds)
    user = os.environ.get("CONSONANCE_NATS_USER")
    if user and "@" not in place.servers[0]:
        found |= {"user": user, "password": os.environ.get("CONSONANCE_NATS_PASSWORD", "")}
    authority, certificate = _file("CONSONANCE_NATS_CA"), _file("CONSONANCE_NATS_CERT")
    if place.secured or authority is not None or certificate is not None:
        try:
            context = ssl.create_default_context(cafile=authority)
            if certificate is not None:
                context.load_cert_chain(certificate, _file("CONSONANCE_NATS_KEY"))
        except (OSError, ssl.SSLError) as e:
            raise InvalidKey(f"the certificates for {place.shown} cannot be used: {e}") from e
        found["tls"] = context
    return found


def _file(variable: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise InvalidKey(f"{variable} names {path}, which is no file")
    return path
