"""What a server asks of who connects, as the environment names it."""

from __future__ import annotations

import base64
import os
import re
import ssl
from binascii import crc_hqx
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bus.errors import InvalidKey
from bus.nats.names import Place

__all__ = ["credentials"]

_PART = re.compile(rb"-+BEGIN ([A-Z ]+?)-+\s+(\S+)\s+-+END")


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
        jwt, key = _credentials_of(creds)
        found["user_jwt_cb"] = lambda: jwt
        found["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
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


def _credentials_of(path: Path) -> tuple[bytes, Ed25519PrivateKey]:
    """The token of a .creds file, and the key that its owner signs with."""
    try:
        parts = dict(_PART.findall(path.read_bytes()))
        jwt, seed = parts[b"NATS USER JWT"], parts[b"USER NKEY SEED"]
        # Two bytes say what it is, then come the key's 32, and two of a sum.
        raw = base64.b32decode(seed + b"=" * (-len(seed) % 8))
        if len(raw) != 36 or crc_hqx(raw[:34], 0) != int.from_bytes(raw[34:], "little"):
            raise ValueError("the seed in it is broken")
        return jwt, Ed25519PrivateKey.from_private_bytes(raw[2:34])
    except KeyError as e:
        raise InvalidKey(f"{path} is no .creds file: it needs a user's JWT and seed") from e
    except (OSError, ValueError) as e:
        raise InvalidKey(f"{path} cannot be used: {e}") from e


def _file(variable: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        raise InvalidKey(f"{variable} names {path}, which is no file")
    return path
