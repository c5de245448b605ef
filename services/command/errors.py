"""What ends a command, and with which exit code.

ServiceError
└── CommandError        the command cannot do what it was asked; `code` is its exit code
    ├── Failed          1  the fleet, the disk or the machine failed at it
    ├── InputRefused    2  what was given makes no sense
    └── NoFleet         3  nothing answers where the fleet should be
"""

from __future__ import annotations

from typing import ClassVar, Final

from services.errors import ServiceError

__all__ = [
    "CODES",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "NO_FLEET",
    "REFUSED",
    "CommandError",
    "Failed",
    "InputRefused",
    "NoFleet",
]

DONE: Final = 0
FAILED: Final = 1
REFUSED: Final = 2
NO_FLEET: Final = 3
INTERRUPTED: Final = 130

CODES: Final = "Exit codes: 0 done, 1 failed, 2 refused, 3 no fleet, 130 interrupted."
"""Stands below every help page."""


class CommandError(ServiceError):
    """The command cannot do what it was asked; its text is one clear sentence."""

    code: ClassVar[int] = FAILED


class Failed(CommandError):
    """The fleet, the disk or the machine failed at it."""


class InputRefused(CommandError):
    """What was given makes no sense."""

    code = REFUSED


class NoFleet(CommandError):
    """Nothing answers where the fleet should be."""

    code = NO_FLEET
