"""What the tests of the bus share: events, brokers, waiting on conditions."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas import (
    Event,
    FeedbackGiven,
    LearningBatchRejected,
    SkillListRequested,
    TrainingProgressed,
)

ROOT = Path(__file__).resolve().parents[2]


def feedback(n: object, *, domain: str | None = None, source: str = "/test/1") -> Event[Any]:
    """A durable event whose id says which it is."""
    data = FeedbackGiven(query=f"q{n}", relevant=("a",), domain=domain)
    return Event(data=data, source=source, id=f"f{n}")


def rejected(n: object) -> Event[Any]:
    """A durable event of another type."""
    data = LearningBatchRejected(batch_id=str(n), reason="too small")
    return Event(data=data, source="/test/1", id=f"r{n}")


def progress(n: int) -> Event[Any]:
    """A live event."""
    data = TrainingProgressed(task_id="t", step=n, steps=100, loss=0.5, phase="head")
    return Event(data=data, source="/test/1")


def question(reply_to: str) -> Event[Any]:
    """A live event that wants an answer."""
    return Event(data=SkillListRequested(reply_to=reply_to), source="/test/1")


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once it holds; fails at the deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.01)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A private folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="cb", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """The first of three free ports."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        if port > 65_000:
            continue
        try:
            for n in range(3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + n))
        except OSError:
            continue
        return port
    raise RuntimeError("no three free ports in a row")


class BrokerProcess:
    """A real `python -m bus`."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.state = state
        self.url = f"ipc://{state}/bus"
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return once it is ready."""
        command = [sys.executable, "-m", "bus", "--state", str(self.state), *self._arguments]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("broker ready"), line

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, *, kill: bool = False) -> int:
        """End it, with SIGTERM or SIGKILL; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill() if kill else process.terminate()
        code = process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
        return code
