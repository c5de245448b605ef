"""What a node shows its peers and believes of them in mutual TLS.

ECDSA throughout: the TLS library under gRPC takes no ed25519 certificates. That a peer has a
certificate lets it connect; whose cards are accepted is the trust list's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.federation import keyfiles
from services.federation.errors import CredentialsError, FederationError
from services.runtime.settings_federation import NODE

__all__ = [
    "ANY_NODE",
    "USES",
    "Credentials",
    "certificates_of",
    "check_key",
    "check_time",
    "ecdsa_key",
    "host_name",
    "is_issued_by",
    "refused_name",
]

_DOMAIN: Final = "consonance"
ANY_NODE: Final = f"federation.{_DOMAIN}"
"""The host name that every node's certificate has: for peers whose own name is not known yet."""

USES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""Every node is both: it serves cards and fetches them."""


def host_name(node: str) -> str:
    """The host name in the certificate of that node alone."""
    return f"{node}.{_DOMAIN}"


@dataclass(frozen=True)
class Credentials:
    """What a node shows its peers and believes of them, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes
    """One certificate or, while one authority follows another, several."""
    expires: datetime
    """When the certificate, or the authority's own, ceases to be valid."""

    @classmethod
    def load(cls, folder: Path, node: str, *, now: datetime | None = None) -> Credentials | None:
        """`node.crt`, `node.key` and `authority.crt` of a folder; None where there is no folder.

        Raises `CredentialsError` where peers would not be convinced: something is missing or
        unreadable, not valid at `now`, not issued by that authority, of another key or node.
        """
        if refused_name(node) is not None:
            raise CredentialsError(f"no certificate can be for a node named {node!r}")
        at = now or datetime.now(UTC)
        try:
            if not folder.exists():
                return None
        except OSError as e:
            raise CredentialsError(f"{folder} cannot be read: {e.strerror}") from e
        paths = {name: folder / name for name in ("node.crt", "node.key", "authority.crt")}
        found = {
            name: keyfiles.read(path, CredentialsError, private=name == "node.key")
            for name, path in paths.items()
        }
        if missing := [name for name, data in found.items() if data is None]:
            raise CredentialsError(f"{folder} has no {' and no '.join(missing)}")
        pem = {name: data for name, data in found.items() if data is not None}
        leaf = certificates_of(pem["node.crt"], paths["node.crt"], CredentialsError)[0]
        roots = certificates_of(pem["authority.crt"], paths["authority.crt"], CredentialsError)
        issuers = [root for root in roots if is_issued_by(leaf, root)]
        if not issuers:
            raise CredentialsError(
                f"{paths['node.crt']} was not issued by {paths['authority.crt']}"
            )
        root = max(issuers, key=lambda one: one.not_valid_after_utc)
        for one, path in ((leaf, paths["node.crt"]), (root, paths["authority.crt"])):
            check_time(one, path, at, CredentialsError)
        check_key(leaf, pem["node.key"], paths["node.key"], CredentialsError)
        _check_leaf(leaf, node, paths["node.crt"])
        expires = min(leaf.not_valid_after_utc, root.not_valid_after_utc)
        return cls(pem["node.crt"], pem["node.key"], pem["authority.crt"], expires)


def refused_name(node: str) -> str | None:
    """Why no certificate can bear this node's name, None where one can."""
    if re.fullmatch(NODE, node) is None:
        return f"a node's name must match {NODE}"
    if host_name(node) == ANY_NODE:
        return "every node answers to that name"
    return None


def ecdsa_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's key; raises `ValueError` for one of another kind."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("its key is no ECDSA key")
    return key


def certificates_of(
    pem: bytes, path: Path, refusal: type[FederationError]
) -> list[x509.Certificate]:
    """At least one, with extensions and key that can be read; raises `refusal`."""
    try:
        found = x509.load_pem_x509_certificates(pem)
        for one in found:
            ecdsa_key(one), one.extensions  # both are parsed when they are first asked for
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as e:
        raise refusal(f"{path} holds no ECDSA certificate in PEM") from e
    return found


def is_issued_by(one: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether `root` is an authority that signed `one`."""
    try:
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        one.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return authority


def check_time(
    one: x509.Certificate, path: Path, at: datetime, refusal: type[FederationError]
) -> None:
    """Raises `refusal` where the certificate is not valid at `at`."""
    if at < one.not_valid_before_utc:
        raise refusal(f"{path} is valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on")
    if at > one.not_valid_after_utc:
        raise refusal(f"{path} expired on {one.not_valid_after_utc:%Y-%m-%d at %H:%M} UTC")


def check_key(
    one: x509.Certificate, pem: bytes, path: Path, refusal: type[FederationError]
) -> ec.EllipticCurvePrivateKey:
    """The private key, which belongs to the certificate; raises `refusal`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise refusal(f"{path} holds no ECDSA private key in PEM without a password")
    if key.public_key() != one.public_key():
        raise refusal(f"{path} is not the key of the certificate beside it")
    return key


def _check_leaf(leaf: x509.Certificate, node: str, path: Path) -> None:
    """That peers will take it for this node's; raises `CredentialsError`."""
    extensions = leaf.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as e:
        raise CredentialsError(f"{path} was not made by `authority issue`") from e
    hosts = names.get_values_for_type(x509.DNSName)
    if host_name(node) not in hosts:
        others = ", ".join(host.removesuffix(f".{_DOMAIN}") for host in hosts if host != ANY_NODE)
        raise CredentialsError(f"{path} is for the node {others or '(none)'}, this one is {node}")
    if ANY_NODE not in hosts or not set(USES) <= set(uses):
        raise CredentialsError(f"{path} cannot serve as both server's and client's certificate")
