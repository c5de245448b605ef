"""Runs a module in a process that does not outlive the one that started it.

    python -P services/runtime/lifeline.py PARENT-PID MODULE ARGUMENT...

The parent starts it in a session of its own, with a pipe as standard input, and never writes
there. Linux kills the process when its parent dies (PR_SET_PDEATHSIG); everywhere, the end of the
pipe kills the whole process group, whatever the module itself has started included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "hold"]

_PR_SET_PDEATHSIG = 1
_ROOT = str(Path(__file__).resolve().parents[2])


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """The words that run `module` tied to this process; start them in the main thread.

    To be used with `stdin=PIPE` and `start_new_session=True`. In a training child that the pipe
    alone shall guard, `start_new_session` may be left out: then it dies with its parent's group.
    """
    # -P: a folder named `bus` or `lora` where the user happens to stand is none of ours.
    return (sys.executable, "-P", __file__, str(os.getpid()), module, *arguments)


def hold(parent: int) -> None:
    """Tie this process to its parent, and its standard input to nothing.

    Exits at once if the parent is gone already.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # the pipe is the second string
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        _end()
    pipe = os.dup(0)  # not inherited by what the module starts
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(pipe,), name="lifeline", daemon=True).start()


def _watch(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(pipe, 1):
            pass
    _end()


def _end() -> None:
    """Kill this process and, where it leads a group of its own, what belongs to it."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _main(words: Sequence[str]) -> None:
    parent, module, *arguments = words
    hold(int(parent))
    if _ROOT not in sys.path:  # the code of the parent, installed or not
        sys.path.insert(0, _ROOT)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
