"""What can go wrong in the monitor.

ServiceError
└── MonitorError
    └── UnusableFeedbackError    a piece of feedback that no retry makes judgeable
"""

from services.errors import ServiceError

__all__ = ["MonitorError", "UnusableFeedbackError"]


class MonitorError(ServiceError):
    """Root of the monitor's errors."""


class UnusableFeedbackError(MonitorError):
    """A piece of feedback cannot be judged, now or later; it belongs to the dead letters."""
