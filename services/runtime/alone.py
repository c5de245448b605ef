"""One process at a time writes in a folder of the state, whatever bus it is on.

Two that bear one name on one bus hear of each other (`namesakes`); factories share a bus by right,
and fleets on different buses may have been given one folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from services.errors import DuplicateError
from services.runtime.namesakes import host_name

__all__ = ["alone"]

FILE: Final = "lock"
LOOK: Final = 0.1
"""Seconds between two looks whether the one before has ended."""


@asynccontextmanager
async def alone(folder: Path, *, patience: float, log: Any) -> AsyncIterator[None]:
    """Hold a folder while the block runs; raises `DuplicateError` where another process does.

    One that is about to end is waited for, for `patience` seconds. Where nothing can be locked, on
    a full disk or on a file system that knows no locks, it is logged, and nobody is held up.
    """
    try:
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("folder not locked", folder=str(folder), why=str(error))
        yield
        return
    try:  # the lock goes with the process, however it ends
        await _lock(file, folder, patience, log)
        yield
    finally:
        os.close(file)


async def _lock(file: int, folder: Path, patience: float, log: Any) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    waits = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 256, 0).decode("utf-8", "replace").strip() or "another process"
            if loop.time() >= end:
                raise DuplicateError(
                    f"{holder} writes in {folder} already, and two would spoil what is there: give "
                    "this fleet a state folder of its own (fleet.state), or leave one of the two "
                    "out (fleet.services)"
                ) from None
            if not waits:
                log.info("waits for a folder", folder=str(folder), held_by=holder)
            waits = True
            await asyncio.sleep(LOOK)
        except OSError as error:
            log.warning("folder not locked", folder=str(folder), why=str(error))
            return
        else:
            break
    with contextlib.suppress(OSError):  # a full disk: nobody is told who it is
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} of {host_name()}\n".encode(), 0)
