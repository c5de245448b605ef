"""Who a node is: its ed25519 key, and what others can check with the public half."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.federation import keyfiles
from services.federation.errors import FederationError, KeyFileError

__all__ = ["NodeKey", "default_node_name", "fingerprint_of", "is_public", "verify"]

PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_FINGERPRINT_DIGITS: Final = 32
_NAME_LIMIT: Final = 64

_P: Final = 2**255 - 19
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})
"""The ordinates of the eight points whose order divides 8: to such a key one signature fits
many messages, so that it identifies nobody."""


class NodeKey:
    """A node's ed25519 key pair; the private half is in no text that this class makes."""

    __slots__ = ("_private", "fingerprint", "public")

    public: str
    """`ed25519:` and unpadded base64url of the 32 raw bytes."""
    fingerprint: str
    """See `fingerprint_of`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PREFIX + _text_of(private.public_key().public_bytes_raw())
        self.fingerprint = fingerprint_of(self.public)

    @classmethod
    def generate(cls) -> NodeKey:
        """A new key, kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> NodeKey:
        """The key of a PEM file (PKCS8) with mode 0600, which is made where it is missing.

        Processes that do so at the same time get the same key. Raises `KeyFileError`.
        """
        private = _load(path)
        if private is None:
            _create(path)
            private = _load(path)
        if private is None:
            raise KeyFileError(f"the key {path} is removed as soon as it is made")
        return cls(private)

    def sign(self, data: bytes) -> str:
        """Unpadded base64url of the signature, which is the same for the same data."""
        return _text_of(self._private.sign(data))

    def __repr__(self) -> str:
        return f"NodeKey({self.public})"


def verify(public: str | None, signature: str | None, data: bytes) -> bool:
    """Whether the signature is that key's over the data; False for whatever makes no sense."""
    key = _raw(public)
    raw = _bytes_of(signature, _SIGNATURE_BYTES)
    if key is None or raw is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(raw, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def is_public(text: str | None) -> bool:
    """Whether the text is a node's public key, in the one way to write it."""
    return _raw(text) is not None


def fingerprint_of(public: str) -> str:
    """The first 32 hex digits of the SHA-256 of the key's raw bytes.

    Raises `FederationError` where the text is no public key.
    """
    raw = _raw(public)
    if raw is None:
        raise FederationError("that is no public key: `ed25519:` and 43 characters of base64url")
    return hashlib.sha256(raw).hexdigest()[:_FINGERPRINT_DIGITS]


def default_node_name(key: NodeKey) -> str:
    """A name for a node that was given none: its host's, and four digits of its fingerprint."""
    suffix = f"-{key.fingerprint[:4]}"
    host = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().split(".")[0].lower())
    host = re.sub(r"^[^a-z0-9]+", "", host)[: _NAME_LIMIT - len(suffix)].rstrip("-_")
    return (host or "node") + suffix


def _raw(public: str | None) -> bytes | None:
    """The 32 bytes of a public key as it is written; None where the text is none."""
    if not isinstance(public, str) or not public.startswith(PREFIX):
        return None
    raw = _bytes_of(public.removeprefix(PREFIX), _KEY_BYTES)
    if raw is None:
        return None
    ordinate = int.from_bytes(raw, "little") & ~(1 << 255)
    return None if ordinate >= _P or ordinate in _WEAK else raw


def _text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes_of(text: str | None, length: int) -> bytes | None:
    """Exactly `length` bytes from unpadded base64url, None for every other text."""
    digits = -(-length * 4 // 3)
    if not isinstance(text, str) or re.fullmatch(rf"[A-Za-z0-9_-]{{{digits}}}", text) is None:
        return None
    raw = base64.urlsafe_b64decode(text + "=" * (-digits % 4))
    # The last character has bits to spare, which would make several texts of one value.
    return raw if len(raw) == length and _text_of(raw) == text else None


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        keyfiles.create(path, pem, 0o600)  # where another was quicker, its key is the node's
        failed = None
    except OSError as e:
        failed = e.strerror
    del pem  # tracebacks may be printed with their local variables
    if failed is not None:
        raise KeyFileError(f"the key {path} cannot be written: {failed}")


def _load(path: Path) -> Ed25519PrivateKey | None:
    found = _parsed(keyfiles.read(path, KeyFileError, private=True))
    if isinstance(found, str):
        raise KeyFileError(f"the key {path} {found}")
    return found


def _parsed(pem: bytes | None) -> Ed25519PrivateKey | str | None:
    """The key, or what is wrong with the file: told by the caller, who never held its bytes."""
    if pem is None:
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        return "is locked by a password, which a node has nobody to ask for"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key in PEM"
    return key if isinstance(key, Ed25519PrivateKey) else "is of another kind than ed25519"
