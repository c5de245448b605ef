"""Why a card is not installed.

ServiceError
└── ManagerError
    └── Rejected
"""

from __future__ import annotations

from services.errors import ServiceError

__all__ = ["ManagerError", "Rejected"]


class ManagerError(ServiceError):
    """The manager cannot work."""


class Rejected(ManagerError):
    """A card is not installed; the text is the reason that `skill.rejected` tells."""
