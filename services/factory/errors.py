"""What can go wrong in the factory.

ServiceError
└── FactoryError
    ├── AnchorsError    the anchor file cannot be used
    └── ChildError      the training child ended without a result
        └── MemoryExceeded    it held more memory than it may
"""

from services.errors import ServiceError

__all__ = ["AnchorsError", "ChildError", "FactoryError", "MemoryExceeded"]


class FactoryError(ServiceError):
    """Root of the factory's errors."""


class AnchorsError(FactoryError):
    """The file of trusted pairs is missing or is none."""


class ChildError(FactoryError):
    """The training child ended without a result; says what it wrote last."""


class MemoryExceeded(ChildError):
    """The training child held more memory than it may, and was ended."""
