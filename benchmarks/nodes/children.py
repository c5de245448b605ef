"""Processes of ours in the nodes of a network: asked by lines of JSON, answering so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.kit.child import THREAD_VARIABLES
from benchmarks.kit.fleet import ROOT
from benchmarks.kit.namespaces import Network

__all__ = ["Child", "ChildFailed"]

PATIENCE: Final = 60.0
"""Seconds for which a child may start, or think."""

LONGEST: Final = 1 << 24
"""Bytes of an answer."""


class ChildFailed(Exception):
    """A process in a node ended by itself, or does not answer."""


class Child:
    """`python -m module words…` in a node; what it says first is `told`.

    It ends when its standard input does; `kill` leaves it no time for anything. An `async with`
    context. Raises `ChildFailed`.
    """

    def __init__(self, network: Network, node: int, module: str, *words: str | Path) -> None:
        self._module = module
        self._command = network.command(
            node, [sys.executable, "-m", module, *(str(word) for word in words)]
        )
        self._process: asyncio.subprocess.Process | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `aclose`)
        self.told: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Start it, and wait for its first words; also after `kill`."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._complaints,
            limit=LONGEST,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            start_new_session=True,  # it does not hear the terminal's Ctrl-C
        )
        try:
            self.told = await self._answer(PATIENCE)
        except BaseException:
            await self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its number: `ip netns exec` becomes the process itself."""
        return self._alive().pid

    async def ask(self, seconds: float = PATIENCE, **question: Any) -> dict[str, Any]:
        """Its answer."""
        stream = self._alive().stdin
        assert stream is not None  # noqa: S101  (a pipe was asked for)
        stream.write(json.dumps(question).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # its end of the pipe tells more
            await stream.drain()
        return await self._answer(seconds)

    async def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            await _killed(process)

    async def aclose(self) -> None:
        """Let it end, and kill it where it does not."""
        self._complaints.close()
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except (TimeoutError, asyncio.CancelledError) as ended:
            await _killed(process)
            if isinstance(ended, asyncio.CancelledError):
                raise

    def _alive(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ChildFailed(f"{self._module} does not run")
        return self._process

    def _last(self) -> str:
        """The last line of its complaints."""
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    async def _answer(self, seconds: float) -> dict[str, Any]:
        process = self._alive()
        assert process.stdout is not None  # noqa: S101  (a pipe was asked for)
        try:
            async with asyncio.timeout(seconds):
                line = await process.stdout.readline()
        except TimeoutError:
            raise ChildFailed(f"{self._module} did not answer within {seconds:.0f} s") from None
        if not line:
            raise ChildFailed(f"{self._module} ended by itself and said {self._last()}")
        found: dict[str, Any] = json.loads(line)
        return found


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await asyncio.shield(process.wait())
