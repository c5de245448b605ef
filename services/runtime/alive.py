"""A sign of life in a file: for who watches a process where it runs, and asks no bus.

    CONSONANCE_ALIVE=/tmp/alive python -m services.router           the router writes it
    CONSONANCE_ALIVE=/tmp/alive python -m services.runtime.alive    0 where the router lives

A bus that is away is no reason to end a process, so whether one is to be ended is not asked there
(`services.fleet.health` asks there whether it is ready). What this imports is Python's own: it runs
every few seconds beside each process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["STALE", "VARIABLE", "keep", "main", "sign", "trouble"]

VARIABLE = "CONSONANCE_ALIVE"
"""Names the file; a process for which it is not set writes none."""

EVERY = 2.0
"""Seconds between two signs."""

STALE = 60.0
"""Seconds after which the last sign counts for nothing: the loop of events stands still."""

_AT_WORK = ("ready", "degraded")


def sign(file: Path, state: str) -> None:
    """Write that this process lives, and in which state; raises `OSError`."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    beside.write_text(f"{state} {os.getpid()} {_birth(os.getpid())} {time.monotonic()}\n", "ascii")
    beside.replace(file)


async def keep(state: Callable[[], str], failed: Callable[[OSError], None]) -> None:
    """Sign again and again; returns at once where nobody asked for it.

    `failed` hears of a sign that could not be written.
    """
    named = os.environ.get(VARIABLE)
    while named:
        try:
            sign(Path(named), state())
        except OSError as error:
            failed(error)
        await asyncio.sleep(EVERY)


def trouble(file: Path, *, ready: bool = False, stale: float = STALE) -> str | None:
    """Why the process that signs `file` does not live, None where it does.

    `ready`: nor is it enough that it lives, it must say that it is ready. `stale`: seconds.
    """
    try:
        state, pid, birth, at = file.read_text("ascii").split()
        number, age = int(pid), time.monotonic() - float(at)
    except FileNotFoundError:
        return f"nobody has signed {file} yet"
    except (OSError, ValueError) as error:
        return f"{file} is no sign of life: {error}"
    # A container that starts anew finds the file of the one before, and its process has the same
    # number.
    if _birth(number) != birth:
        return f"the process that signed {file} is gone"
    if age > stale:
        return f"the last sign of life is {age:.0f} s old"
    if ready and state not in _AT_WORK:
        return f"it is {state}, not ready"
    return None


def _birth(pid: int) -> str:
    """When a process began, as Linux counts; the same for all where nobody counts."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "-" if sys.platform == "linux" else "?"


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 where the process lives, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m services.runtime.alive",
        description=f"Exit 0 where the process that signs the file {VARIABLE} lives, 1 otherwise.",
    )
    parser.add_argument("--ready", action="store_true", help="and says that it is ready")
    parser.add_argument("--stale", type=float, default=STALE, help="seconds a sign holds (60)")
    options = parser.parse_args(argv)
    named = os.environ.get(VARIABLE)
    if not named:
        parser.error(f"{VARIABLE} names no file")
    why = trouble(Path(named), ready=options.ready, stale=options.stale)
    if why is None:
        return 0
    print(f"alive: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
