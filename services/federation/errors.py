"""What can go wrong between peers.

ServiceError
└── FederationError
    ├── KeyFileError         a key file that cannot be read, written or believed
    ├── AuthorityError       the federation authority cannot be made, or cannot issue
    ├── CredentialsError     certificates that mutual TLS cannot use
    ├── TrustFileError       the trust list cannot be read or changed
    ├── DiscoveryError       mDNS cannot be used here
    ├── ServerError          the Flight server cannot serve
    ├── PeerError            a peer that does not answer, or answers nonsense
    │   ├── PeerUnreachable  no connection, or none with these certificates
    │   ├── PeerBusy         it says that it serves others now
    │   ├── NotOffered       it does not have that card
    │   └── PeerMisbehaved   it broke the protocol or a limit
    └── CardRefused          a card that is not believed: `skill.rejected` tells why
        ├── Untrusted        nobody on the trust list signed it
        ├── BadSignature     its signature is not its signer's over its manifest
        ├── Altered          its bytes are not those of its digest
        ├── Oversized        more bytes than a card may have
        └── WrongModel       it bends another base model
"""

from __future__ import annotations

from services.errors import ServiceError

__all__ = [
    "Altered",
    "AuthorityError",
    "BadSignature",
    "CardRefused",
    "CredentialsError",
    "DiscoveryError",
    "FederationError",
    "KeyFileError",
    "NotOffered",
    "Oversized",
    "PeerBusy",
    "PeerError",
    "PeerMisbehaved",
    "PeerUnreachable",
    "ServerError",
    "TrustFileError",
    "Untrusted",
    "WrongModel",
]


class FederationError(ServiceError):
    """Anything that goes wrong between peers; its text is one clear sentence."""


class KeyFileError(FederationError):
    """A key file cannot be read, written or believed."""


class AuthorityError(FederationError):
    """The federation authority cannot be made, or cannot issue."""


class CredentialsError(FederationError):
    """Certificates that mutual TLS cannot use: absent, expired, foreign, or of another key."""


class TrustFileError(FederationError):
    """The trust list cannot be read or changed."""


class DiscoveryError(FederationError):
    """mDNS cannot be used here."""


class ServerError(FederationError):
    """The Flight server cannot serve."""


class PeerError(FederationError):
    """A peer does not answer, or answers nonsense."""


class PeerUnreachable(PeerError):
    """There is no connection, or none with these certificates."""


class PeerBusy(PeerError):
    """The peer serves as many as it may; it is worth asking again."""


class NotOffered(PeerError):
    """The peer does not have that card."""


class PeerMisbehaved(PeerError):
    """The peer broke the protocol or a limit."""


class CardRefused(FederationError):
    """A card is not believed; the text is the reason that `skill.rejected` tells."""


class Untrusted(CardRefused):
    """Nobody on the trust list signed it."""


class BadSignature(CardRefused):
    """Its signature is not its signer's over its manifest."""


class Altered(CardRefused):
    """Its bytes are not those of its digest."""


class Oversized(CardRefused):
    """It has more bytes than a card may have."""


class WrongModel(CardRefused):
    """It bends another base model than this fleet serves."""
