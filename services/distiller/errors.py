"""What can go wrong in the distiller.

ServiceError
└── DistillerError
    └── UnknownTeacherError    a teacher that this version does not have
"""

from services.errors import ServiceError

__all__ = ["DistillerError", "UnknownTeacherError"]


class DistillerError(ServiceError):
    """Root of the distiller's errors."""


class UnknownTeacherError(DistillerError):
    """The settings name a teacher that this version does not have."""
