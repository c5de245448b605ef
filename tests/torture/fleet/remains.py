"""What a fleet that was stopped has left: processes, shared memory, temporary and half files."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

__all__ = ["alive", "stale", "tracebacks"]

HALF: Final = re.compile(r"\.tmp$|\.part$|\.partial$|^\.|\.sock$|-wal$|-shm$|-journal$|^tmp")
"""Names of files that nobody needs once the fleet is down."""


def alive(seen: Mapping[int, float], patience: float = 5.0) -> list[str]:
    """Which of these processes (pid and when it began) still run after `patience` seconds."""
    ends = time.monotonic() + patience
    while True:
        left = []
        for pid, began in seen.items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{pid} ({' '.join(process.cmdline()[3:6])})")
        if not left or time.monotonic() > ends:
            return left
        time.sleep(0.1)


def stale(state: Path, temporary: Path, shared: set[str]) -> list[str]:
    """Files that a fleet should have taken with it, by their path."""
    found = [
        str(path.relative_to(state))
        for path in state.rglob("*")
        if not path.is_dir() and HALF.search(path.name)
    ]
    found += [f"$TMPDIR/{path.name}" for path in temporary.iterdir()]
    found += [path for path in shared if os.path.exists(path)]
    return sorted(found)


def tracebacks(logs: Path) -> list[str]:
    """Where a process met what nobody had foreseen: its log has the traceback."""
    found = []
    for path in sorted(logs.iterdir()):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            if "Traceback (most recent call last)" in line:
                found.append(f"{path.name}: {line[-300:]}")
    return found
