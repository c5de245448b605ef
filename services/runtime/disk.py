"""A full disk: it passes, and no event is at fault."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from bus import BusError, Delivery, DiskFull
from schemas import now

__all__ = ["PATIENCE", "disk_is_full", "waiting_for_room"]

PATIENCE = 15.0
"""Seconds until what found the disk full is tried again."""

RESERVE = 16 << 20
"""Free bytes below which a disk counts as full, whatever the error says."""

Handler = Callable[[Sequence[Delivery]], Awaitable[None]]


def disk_is_full(error: BaseException, folder: Path | None = None) -> bool:
    """True where the error, or what caused it, says so, or the disk of `folder` has no room left.

    The folder is for errors that cannot tell: those of another process.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFull):
            return True
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(cause, sqlite3.OperationalError) and _code(cause) == sqlite3.SQLITE_FULL:
            return True
        cause = cause.__cause__
    try:
        return folder is not None and shutil.disk_usage(folder).free < RESERVE
    except OSError:
        return False


def waiting_for_room(handler: Handler, log: Any) -> Handler:
    """The handler; where it finds the disk full its events come again later, uncounted."""

    async def handle(deliveries: Sequence[Delivery]) -> None:
        try:
            await handler(deliveries)
        except Exception as error:
            if not disk_is_full(error):
                raise
            log.error("the disk is full: this waits", why=str(error), events=len(deliveries))
            until = now() + timedelta(seconds=PATIENCE)
            for one in deliveries:
                with contextlib.suppress(BusError):  # the lease then runs out by itself
                    await one.defer(until)

    return handle


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
