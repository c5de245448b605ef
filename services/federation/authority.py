"""The federation's authority: made once, on one machine, and what it issues to nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.federation import keyfiles
from services.federation.credentials import (
    ANY_NODE,
    USES,
    Credentials,
    certificates_of,
    check_key,
    check_time,
    ecdsa_key,
    host_name,
    is_issued_by,
    refused_name,
)
from services.federation.errors import AuthorityError

__all__ = ["ANY_NODE", "Certified", "Credentials", "create_authority", "host_name", "issue"]

_SKEW: Final = timedelta(hours=1)  # how far the clocks of two nodes may lie apart
_DAYS: Final = range(1, 36_501)
_COMMON_NAME_LIMIT: Final = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True)
class Certified:
    """A certificate that was just made."""

    folder: Path
    """Where it and its key lie."""
    name: str
    fingerprint: str
    """SHA-256 of the certificate in DER, 64 hex digits."""
    expires: datetime


def create_authority(
    folder: Path, name: str, days: int = 3650, *, now: datetime | None = None
) -> Certified:
    """A new authority, `authority.crt` and `authority.key`, in a folder that has none.

    Whoever has the key can issue certificates: it stays where it is made, and no node needs it.
    Raises `AuthorityError`.
    """
    if not (name.isprintable() and name.strip() and len(name) <= _COMMON_NAME_LIMIT):
        raise AuthorityError(
            f"an authority's name is 1 to {_COMMON_NAME_LIMIT} printable characters"
        )
    start, end = _validity(days, now)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(issues=True), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    _write(
        folder,
        {"authority.key": (_private(key), 0o600), "authority.crt": (_public(certificate), 0o644)},
    )
    return _certified(folder, name, certificate)


def issue(
    folder: Path, node: str, out: Path, days: int = 365, *, now: datetime | None = None
) -> Certified:
    """What a node needs, from the authority in `folder`: `node.crt`, `node.key`, `authority.crt`.

    The certificate never outlives the authority's. Nothing in `out` is overwritten but an equal
    `authority.crt`. Raises `AuthorityError`.
    """
    if (why := refused_name(node)) is not None:
        raise AuthorityError(f"no certificate is issued for {node!r}: {why}")
    start, end = _validity(days, now)
    root, root_key, root_pem = _authority(folder, now or datetime.now(UTC))
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(host_name(node)), x509.DNSName(ANY_NODE)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_named(node))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(end, root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(issues=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USES), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issuer_id(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    _write(
        out,
        {
            "node.crt": (_public(certificate), 0o644),
            "node.key": (_private(key), 0o600),
            "authority.crt": (root_pem, 0o644),
        },
        shared=("authority.crt",),
    )
    return _certified(out, node, certificate)


def _validity(days: int, now: datetime | None) -> tuple[datetime, datetime]:
    if days not in _DAYS:
        raise AuthorityError(f"a certificate is valid for 1 to {_DAYS[-1]} days, not {days}")
    at = now or datetime.now(UTC)
    return at - _SKEW, at + timedelta(days=days)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_id(root: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ecdsa_key(root))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certified(folder: Path, name: str, certificate: x509.Certificate) -> Certified:
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Certified(folder, name, fingerprint, certificate.not_valid_after_utc)


def _write(folder: Path, files: dict[str, tuple[bytes, int]], shared: tuple[str, ...] = ()) -> None:
    """All of the files or, with `AuthorityError`, none; an equal `shared` one may be there."""
    made: list[Path] = []
    try:
        for name, (data, mode) in files.items():
            path = folder / name
            if keyfiles.create(path, data, mode):
                made.append(path)
            elif name not in shared:
                raise AuthorityError(f"{path} exists already: remove it first")
            elif keyfiles.read(path, AuthorityError) != data:
                raise AuthorityError(f"{path} is another authority's: remove it first")
    except OSError as e:
        _unlink(made)
        raise AuthorityError(f"{folder} cannot be written: {e.strerror}") from e
    except AuthorityError:
        _unlink(made)
        raise


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _authority(
    folder: Path, at: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bytes]:
    """Certificate, key and PEM of the authority in a folder; raises `AuthorityError`."""
    crt, key = folder / "authority.crt", folder / "authority.key"
    pem = keyfiles.read(crt, AuthorityError)
    secret = keyfiles.read(key, AuthorityError, private=True)
    if pem is None or secret is None:
        raise AuthorityError(f"there is no authority in {folder}: `authority create` makes one")
    root = certificates_of(pem, crt, AuthorityError)[0]
    check_time(root, crt, at, AuthorityError)
    if not is_issued_by(root, root):
        raise AuthorityError(f"{crt} is no authority's certificate")
    return root, check_key(root, secret, key, AuthorityError), pem
