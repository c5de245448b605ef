"""When a cron expression is due next, in a time zone with its summer time."""

from __future__ import annotations

import os
from datetime import datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

__all__ = ["check", "next_time", "zone_of"]

_MACHINE = Path("/etc/localtime")


def next_time(expression: str, zone: str | None, after: float) -> float:
    """The first time the expression is due after `after`; both are seconds since the epoch.

    As Debian's cron has it, what is due at a fixed hour that the clock leaps over comes when the
    leap is done, and where an hour comes twice it is due in the first; `*` fields follow the clock.
    Raises `ValueError` with one sentence where the expression or the zone is none.
    """
    try:
        times = CronSim(expression, datetime.fromtimestamp(after, zone_of(zone)))
        while True:
            # In an hour that comes twice the library answers with the first, though it be past.
            if (found := next(times).timestamp()) > after:
                return found
    except CronSimError as error:
        raise ValueError(
            f"{expression!r} is no cron expression of five fields (minute hour day month weekday): "
            f"{str(error)[:1].lower()}{str(error)[1:]}"
        ) from error
    except StopIteration:
        raise ValueError(f"the cron expression {expression!r} is never due") from None


def zone_of(name: str | None) -> tzinfo:
    """The zone of an IANA name, or the machine's; raises `ValueError` where there is none such."""
    if name is not None:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"{name!r} is no time zone known here (an IANA name, as Europe/Berlin)"
            ) from error
    try:
        if given := os.environ.get("TZ", "").lstrip(":"):
            return ZoneInfo(given)
        with _MACHINE.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A machine that names its zone in another way: the present distance from UTC must do.
        return datetime.now().astimezone().tzinfo or ZoneInfo("UTC")


def check(expression: str, zone: str | None) -> None:
    """Raise `ValueError`, one sentence, unless the two say when."""
    next_time(expression, zone, 0.0)
