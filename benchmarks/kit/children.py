"""Processes that are told what to do by lines of JSON, and answer in lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

__all__ = ["BenchError", "Child", "answer", "cpu_seconds", "orders"]

ROOT = Path(__file__).resolve().parents[2]
Found = dict[str, Any]


class BenchError(Exception):
    """Something that was measured did not start, ended, or did other work than asked."""


class Child:
    """`python -m MODULE ARGUMENTS`, which says one line when it is ready.

    Raises `BenchError` where it ends by itself. Its standard error is appended to `log`, or is this
    process's own.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        descriptors: Sequence[int] = (),
        environment: Mapping[str, str] = os.environ,
        log: Path | None = None,
    ) -> None:
        self.name = " ".join((module, *arguments[:1]))
        self._log = log
        with contextlib.nullcontext() if log is None else log.open("ab") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                pass_fds=descriptors,
                encoding="utf-8",
                env={**environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is this process's to hear
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, **order: Any) -> None:
        """Send an order."""
        self.say(json.dumps(order))

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None  # noqa: S101  (a pipe was asked for)
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def line(self) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None  # noqa: S101
        found = self._process.stdout.readline()
        if not found:
            raise self._ended()
        return found

    def _ended(self) -> BenchError:
        told = f"{self.name} ended with {self._process.wait(10)}"
        if self._log is None:
            return BenchError(told)
        said = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
        return BenchError(f"{told} and said: {said[0]}")

    def heard(self) -> Found:
        """The answer to an order."""
        found: Found = json.loads(self.line())
        return found

    def close(self) -> None:
        """Its standard input ends: so does it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it ended, and had not read all
                self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Not before it has ended: another thread may still be reading there.
        if self._process.stdout is not None:
            self._process.stdout.close()


def cpu_seconds(*pids: int) -> float:
    """What these processes have computed so far, all their threads together."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(time.user + time.system for time in times))


def orders(obey: Callable[[str], Found]) -> None:
    """In a child: obey each line of standard input until it ends."""
    for line in sys.stdin:
        answer(obey(line))


def answer(found: Found) -> None:
    """In a child: one line for the one who asked."""
    print(json.dumps(found), flush=True)
