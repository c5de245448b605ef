"""The errors of the services.

ServiceError
├── AttachmentError         vectors that are none
├── CardDescriptionError    what an event says of a card makes no sense
├── DuplicateError          another process is what this one would be
├── EncodeFailedError       the fleet answered a request with an error
├── NotFederatingError      the gateway to peers does not run, or not as it was asked for
├── NotLearningError        a process that learning needs does not run
├── SettingsError
├── StoreDamagedError       a process's own database is not what was written to it
└── FleetError
    ├── PreflightError
    │   └── FleetRunningError
    └── GaveUpError
        └── RefusedError
"""

__all__ = [
    "AttachmentError",
    "CardDescriptionError",
    "DuplicateError",
    "EncodeFailedError",
    "FleetError",
    "FleetRunningError",
    "GaveUpError",
    "NotFederatingError",
    "NotLearningError",
    "PreflightError",
    "RefusedError",
    "ServiceError",
    "SettingsError",
    "StoreDamagedError",
]


class ServiceError(Exception):
    """Anything that a service refuses or fails at; its text is one clear sentence."""


class AttachmentError(ServiceError):
    """An attachment does not hold the vectors that it should."""


class CardDescriptionError(ServiceError):
    """A card cannot be described, or a description makes no card."""


class DuplicateError(ServiceError):
    """Another process on the bus bears this one's name, is the one of its service that may be, or
    writes in its folder; says where it runs."""


class EncodeFailedError(ServiceError):
    """The fleet answered a request with an error; `code` is one of wire.md's."""

    def __init__(self, code: str, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class NotFederatingError(ServiceError):
    """This fleet has no gateway to peers now, or another one than was asked for; says which."""


class NotLearningError(ServiceError):
    """Feedback would teach this fleet nothing now: names the processes that do not run."""


class SettingsError(ServiceError):
    """A settings file or an override cannot be used; names the key, and the file where one is."""


class StoreDamagedError(ServiceError):
    """A process's own database is not what was written to it; says what helps."""


class FleetError(ServiceError):
    """The fleet cannot run, or cannot go on running."""


class PreflightError(FleetError):
    """Something is wrong before the first process starts, and nothing was started."""


class FleetRunningError(PreflightError):
    """Another fleet runs on the same state folder."""


class GaveUpError(FleetError):
    """A process failed too often, or in a way that a restart cannot mend."""

    def __init__(self, message: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.last_lines = last_lines  # of the log of the process, oldest first


class RefusedError(GaveUpError):
    """A process refused its settings before it was ever ready; the text ends with its own words."""
