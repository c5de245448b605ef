"""What the kernel says that a process takes: of its own, and of what is mapped by many."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = ["Taken", "parsed", "taken_by"]


class Taken(NamedTuple):
    """Bytes."""

    resident: int
    """Pages it has in memory, shared ones in full."""
    proportional: int
    """Shared pages divided by those who share them: these add up (PSS)."""
    private: int
    """Pages that nobody else has: what is free again when it ends (USS)."""


def parsed(rollup: str) -> Taken:
    """From the text of `/proc/PID/smaps_rollup`."""
    kilobytes: dict[str, int] = {}
    for line in rollup.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            kilobytes[key] = int(words[0])
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return Taken(1024 * kilobytes["Rss"], 1024 * kilobytes["Pss"], 1024 * private)


def taken_by(supervisor: int) -> dict[str, list[Taken]]:
    """Of each process of a fleet, by its service's name: `encoder`, …, `supervisor`.

    Raises `OSError` where the kernel does not tell (other systems than Linux).
    """
    top = psutil.Process(supervisor)
    found: dict[str, list[Taken]] = {}
    for process in (top, *top.children(recursive=True)):
        try:
            name = "supervisor" if process.pid == supervisor else _service(process.cmdline())
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii")
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            if Path("/proc/self/smaps_rollup").exists():
                continue  # it has ended meanwhile
            raise
        found.setdefault(name, []).append(parsed(rollup))
    return found


def _service(words: list[str]) -> str:
    """`python -P …/lifeline.py PARENT services.encoder …` is `encoder`, `bus` is the broker."""
    module = words[4] if len(words) > 4 else " ".join(words[:1])
    return {"bus": "broker"}.get(module, module.rpartition(".")[2])
