"""A training child that is started ahead of its job: what it must import is there when it begins.

Feedback comes before the training that it leads to. A child that is begun with the feedback spends
the second that a process and its libraries take while batches fill and a dataset is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.factory.process import end, start_child

__all__ = ["Spare"]

IDLE = 60.0
"""Seconds after which a child that got no job is ended: it holds some 70 MB."""


@dataclass
class _Waiting:
    child: Process
    pipe: int
    """Where its job's folder is written to."""


class Spare:
    """At most one child that waits; it takes one job and ends with it."""

    def __init__(self, argv: Sequence[str], *, threads: int, idle: float = IDLE) -> None:
        """`argv` starts the child; `--wait` and the number of its pipe are added."""
        self._argv, self._threads, self._idle = tuple(argv), threads, idle
        self._waiting: asyncio.Task[_Waiting] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def expect(self) -> None:
        """A job may come soon: have a child that waits for it."""
        if self._closed:
            return
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._start(), name="spare child")
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._give_up)

    async def take(self, folder: Path) -> Process | None:
        """A child that begins the job of this folder; None where none waits."""
        waiting = self._release()
        if waiting is None:
            return None
        # Feedback comes in bursts: the next batch of this one may outdate the job at once.
        self.expect()
        try:
            found = await asyncio.shield(waiting)
        except OSError:
            return None
        except asyncio.CancelledError:
            self._end(waiting)  # it may be there by now, and nobody else knows of it
            raise
        with contextlib.closing(_Pipe(found.pipe)) as pipe:
            told = found.child.returncode is None and pipe.tell(f"{folder}\n")
        if told:
            return found.child
        await end(found.child)
        return None

    async def aclose(self) -> None:
        """End the child that waits."""
        self._closed = True
        self._give_up()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _release(self) -> asyncio.Task[_Waiting] | None:
        waiting, self._waiting = self._waiting, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return waiting

    def _give_up(self) -> None:
        waiting = self._release()
        if waiting is not None:
            self._end(waiting)

    def _end(self, waiting: asyncio.Task[_Waiting]) -> None:
        task = asyncio.create_task(_dismiss(waiting))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _start(self) -> _Waiting:
        theirs, ours = os.pipe()
        try:
            words = (*self._argv, "--wait", str(theirs))
            child = await start_child(words, threads=self._threads, inherited=(theirs,))
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return _Waiting(child, ours)


class _Pipe:
    def __init__(self, number: int) -> None:
        self._number = number

    def tell(self, text: str) -> bool:
        """Whether the other end took it."""
        try:
            os.write(self._number, os.fsencode(text))
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self._number)


async def _dismiss(waiting: asyncio.Task[_Waiting]) -> None:
    with contextlib.suppress(OSError):
        found = await waiting
        os.close(found.pipe)
        await end(found.child)
