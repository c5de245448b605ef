"""What the router answers with an error.

ServiceError
└── RouterError
    ├── OfferRefused     an offer of a peer's that is not heeded
    ├── Refused          a request that gets `encode.failed`, with its code
    └── UnknownSkill     a name that leads to no skill
"""

from __future__ import annotations

from typing import Literal

from services.errors import ServiceError

__all__ = ["Code", "OfferRefused", "Refused", "RouterError", "UnknownSkill"]

Code = Literal["unknown_skill", "overloaded", "deadline", "too_large", "invalid", "internal"]


class RouterError(ServiceError):
    """The router cannot route this."""


class Refused(RouterError):
    """A request that is answered with `encode.failed`."""

    def __init__(self, code: Code, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class OfferRefused(RouterError):
    """An offer is beyond what is heeded of a peer; says which bound it breaks."""


class UnknownSkill(RouterError):
    """No skill here bears this name, version or digest; says what is known nearby."""
