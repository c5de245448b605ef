"""Whose turn it is where processors are short: who computes stands back for who answers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["stand_back"]

LEAST: Final = 19
"""The niceness beyond which there is none."""

TRIES: Final = 6
PAUSE: Final = 0.12
"""Linux lets the priority of one group be set at a time, ten times a second, by who is not root."""


def stand_back(niceness: int, process: int | None = None) -> None:
    """Make a process, or on Linux the calling thread and those it starts, nicer by `niceness`.

    Where Linux divides processors by session first (sched_autogroup(7)), niceness counts within a
    session only: one that the process leads itself stands back as a whole. What the system does
    not allow is left as it is. May take most of a second.
    """
    if not niceness:
        return
    who = 0 if process is None else process
    try:
        wanted = min(os.getpriority(os.PRIO_PROCESS, who) + niceness, LEAST)
        os.setpriority(os.PRIO_PROCESS, who, wanted)
        if os.getsid(who) != (process or os.getpid()):
            return  # the group is others', too: perhaps a user's shell
    except OSError:
        return
    group = Path(f"/proc/{process or 'self'}/autogroup")
    for _ in range(TRIES):
        try:
            group.write_text(str(wanted))
        except BlockingIOError:
            time.sleep(PAUSE)
        except OSError:  # not Linux, or one without such groups
            return
        else:
            return
