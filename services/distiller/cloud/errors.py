"""What can go wrong with a teacher behind an API.

ServiceError
├── SettingsError
│   └── TeacherSettingsError    the teacher cannot be asked with these settings
└── DistillerError
    └── CloudError
        ├── UnavailableError    the server, the key or the budget: nothing can be asked now
        │   └── NotOfferedError the server does not know this kind of request
        └── PartError           one request failed for a reason of its own; others may do
            ├── TruncatedError  its answer, or the request itself, is too long
            ├── RefusedError    the model, or a filter, refused to answer
            ├── RejectedError   the server does not take the request as it is
            └── MalformedError  the answer is not what was asked for
"""

from services.distiller.errors import DistillerError
from services.errors import SettingsError

__all__ = [
    "CloudError",
    "MalformedError",
    "NotOfferedError",
    "PartError",
    "RefusedError",
    "RejectedError",
    "TeacherSettingsError",
    "TruncatedError",
    "UnavailableError",
]


class TeacherSettingsError(SettingsError):
    """The teacher cannot be asked with these settings; names the key."""


class CloudError(DistillerError):
    """Root of what a teacher behind an API fails at; its text may stand in an event."""


class UnavailableError(CloudError):
    """Nothing can be asked now; `again` (seconds since the epoch) is set where waiting helps."""

    def __init__(self, message: str, again: float | None = None) -> None:
        super().__init__(message)
        self.again = again


class NotOfferedError(UnavailableError):
    """The server does not know this kind of request, or not the model that it names."""


class PartError(CloudError):
    """One request failed for a reason of its own; others may do."""


class TruncatedError(PartError):
    """The answer, or the request itself, is too long for the model."""


class RefusedError(PartError):
    """The model, or a filter of the server, refused to answer."""


class RejectedError(PartError):
    """The server does not take the request as it is."""


class MalformedError(PartError):
    """The answer is not what was asked for."""
