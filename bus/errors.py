"""What can go wrong on the bus.

BusError
├── Refused             the broker said no; `code` is one of wire.md's
│   ├── StaleLease      the lease had run out: nothing was changed
│   ├── TooLarge        an event over the limit
│   ├── DiskFull        the journal's disk is full: nothing was appended
│   ├── ReadOnly        the journal cannot be written
│   ├── Damaged         the journal's file is not what was written
│   ├── Consumed        somebody consumes as the group: it was not dropped
│   ├── Overloaded      the journal has enough to do: ask again later
│   ├── NotPermitted    this key may not do that
│   └── OverQuota       this key has given all the feedback that it may for now
├── Unreachable         no answer from the broker in time
├── RequestTimeout      nobody answered a request by its deadline
├── Closed              the bus, or this subscription, is closed
├── InvalidUrl          a bus URL that cannot be used, and why
├── InvalidKey          a key file that is missing or unreadable
├── InvalidRoles        a file of roles that cannot be used, and why
├── InUse               another broker holds this folder, state or port
└── InsecureFolder      an ipc folder that others may enter
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "BusError",
    "Closed",
    "Consumed",
    "Damaged",
    "DiskFull",
    "InUse",
    "InsecureFolder",
    "InvalidKey",
    "InvalidRoles",
    "InvalidUrl",
    "NotPermitted",
    "OverQuota",
    "Overloaded",
    "ReadOnly",
    "Refused",
    "RequestTimeout",
    "StaleLease",
    "TooLarge",
    "Unreachable",
    "refusal",
]


_DAMAGED = "the journal is damaged"
_MEND = "stop the fleet, and `consonance journal repair` saves what can be read"


class BusError(Exception):
    """Anything that went wrong on the bus."""


class Refused(BusError):
    """The broker refused; `code` says why in one word."""

    code = "malformed"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class StaleLease(Refused):
    """The lease had run out: nothing was changed."""

    code = "stale_lease"


class TooLarge(Refused):
    """An event over the size limit."""

    code = "too_large"


class DiskFull(Refused):
    """The journal's disk is full: nothing was appended."""

    code = "disk_full"


class ReadOnly(Refused):
    """The journal cannot be written."""

    code = "read_only"


class Damaged(Refused):
    """The journal's file is not what was written to it; what is lost shows in a repair.

    Nothing is written any more until it was repaired; what can be read still is.
    """

    code = "damaged"

    def __init__(self, message: str, code: str | None = None) -> None:
        whole = message.startswith(_DAMAGED)  # as it comes from the broker
        super().__init__(message if whole else f"{_DAMAGED} ({message}): {_MEND}", code)


class Consumed(Refused):
    """Somebody consumes as the group that was to be dropped: nothing was changed."""

    code = "consumed"

    @classmethod
    def of(cls, group: str) -> Self:
        """What is said where it is the group of this name."""
        return cls(f"somebody consumes as {group!r}: stop that process first, or force it")


class Overloaded(Refused):
    """The journal has enough to do, of this client's or of all others': ask again later.

    Our clients do that by themselves, for as long as their patience lasts.
    """

    code = "overloaded"


class NotPermitted(Refused):
    """This key may not do that."""

    code = "not_permitted"


class OverQuota(Refused):
    """This key has given all the feedback that it may for now: try again later."""

    code = "over_quota"


class Unreachable(BusError):
    """The broker did not answer in time."""


class RequestTimeout(BusError):
    """Nobody answered a request by its deadline."""


class Closed(BusError):
    """The bus, or this subscription, is closed."""


class InvalidUrl(BusError):
    """A bus URL that cannot be used, and why."""


class InvalidKey(BusError):
    """A key file is missing, unreadable or open to others."""


class InvalidRoles(BusError):
    """A file of roles that cannot be used."""


class InUse(BusError):
    """Another broker is alive on this folder, state or port."""


class InsecureFolder(BusError):
    """The folder of an ipc bus may be entered by others than its owner."""


_BY_CODE: dict[str, type[Refused]] = {
    kind.code: kind
    for kind in (
        StaleLease,
        TooLarge,
        DiskFull,
        ReadOnly,
        Damaged,
        Consumed,
        Overloaded,
        NotPermitted,
        OverQuota,
    )
}


def refusal(code: str, message: str) -> Refused:
    """The error class of a code on the wire."""
    kind = _BY_CODE.get(code)
    return kind(message) if kind else Refused(message, code)
