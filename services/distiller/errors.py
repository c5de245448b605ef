"""What can go wrong in the distiller.

ServiceError
└── DistillerError
    ├── UnknownTeacherError    a teacher that this version does not have
    └── DeadlyOrderError       a dataset at whose making the process died again and again
"""

from services.errors import ServiceError

__all__ = ["DeadlyOrderError", "DistillerError", "UnknownTeacherError"]


class DistillerError(ServiceError):
    """Root of the distiller's errors."""


class UnknownTeacherError(DistillerError):
    """The settings name a teacher that this version does not have."""


class DeadlyOrderError(DistillerError):
    """The process died again and again at the making of this dataset, for want of memory say."""
