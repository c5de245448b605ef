"""When a body is due, and from when on it gives way to nothing."""

from __future__ import annotations

from typing import NamedTuple

from services.runtime.cron import next_time
from services.runtime.settings import FactorySettings

__all__ = ["Due", "body_due"]


class Due(NamedTuple):
    """Both are seconds since the epoch."""

    first: float
    """Not before this time."""
    last: float
    """From then on heads of the skill wait for the body, and not it for them."""


def body_due(settings: FactorySettings, since: float, arrived: float) -> Due | None:
    """When the body of a skill may and must be trained; None where none ever is.

    `since`: when the first of the tasks came that no body covers yet; `arrived`: when the newest
    did, which is the one whose body it will be. Newer tasks take `since` over from the older ones,
    so that steady feedback never puts a body off for ever. Both are stored, and what they lead to
    is a matter of them and the settings alone: what came due while the fleet was down is due at
    its start.

    Heads and bodies of one skill are judged against the version in service: a head published while
    a body trains makes its verdict worthless. Hence, until `last`, the body gives way: it trains
    where nothing else waits, and is given up for a newer head that passes the gate; from `last` on
    it is the heads of its skill that wait, for one verdict, and no longer than twice the body's
    time budget, or four times where the last one of the skill was given up after twice of it. With
    `quiet`, feedback that comes shows that it is not quiet yet, and the body can wait till
    `quiet_limit`. At `cron`'s hour, and `at_once`, it is the body's turn.
    """
    if settings.body_schedule == "off":
        return None
    if settings.body_schedule == "at_once":
        return Due(since, since)
    if settings.body_schedule == "cron":
        due = next_time(settings.cron, settings.time_zone, since)
        return Due(due, due)
    last = since + settings.quiet_limit
    return Due(min(arrived + settings.quiet_period, last), last)
