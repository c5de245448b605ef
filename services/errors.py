"""The errors of the services.

    ServiceError
    ├── SettingsError
    └── FleetError
        ├── PreflightError
        │   └── FleetRunningError
        └── GaveUpError
"""

__all__ = [
    "FleetError",
    "FleetRunningError",
    "GaveUpError",
    "PreflightError",
    "ServiceError",
    "SettingsError",
]


class ServiceError(Exception):
    """Anything that a service refuses or fails at; its text is one clear sentence."""


class SettingsError(ServiceError):
    """A settings file or an override cannot be used; names the key, and the file where one is."""


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
