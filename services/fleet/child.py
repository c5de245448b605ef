"""One run of one process: started in a group of its own, its output read, ended for good."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Self

from services.fleet.plan import Part

__all__ = ["Child"]

_KEPT_LINES = 20
_LONGEST_LINE = 64 * 1024  # bytes; a longer one is broken, lest a runaway fills the memory


class Child:
    """A started process; made by `start`."""

    def __init__(
        self,
        part: Part,
        process: asyncio.subprocess.Process,
        lifeline: int,
        output: int,
        tell: Callable[[Part, str], None],
    ) -> None:
        self.part = part
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process = process
        self._lifeline = lifeline
        self._output = output
        self._tell = tell
        self._ended = asyncio.create_task(self._follow(), name=f"follow {part.name}")

    @classmethod
    async def start(cls, part: Part, tell: Callable[[Part, str], None]) -> Self:
        """Start the process; `tell` gets every line that it writes. Raises `OSError`."""
        # Pipes of our own: asyncio's make `wait` wait for whoever else holds their other end.
        its_input, lifeline = os.pipe()  # never written: its end tells that we died
        output, its_output = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *part.command,
                stdin=its_input,
                stdout=its_output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=part.descriptors,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
            )
        except BaseException:
            os.close(lifeline)
            os.close(output)
            raise
        finally:
            os.close(its_input)
            os.close(its_output)
        return cls(part, process, lifeline, output, tell)

    @property
    def pid(self) -> int:
        """The process id, which is its group's too."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, negative for a signal, once nothing of the process group is left."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        """SIGTERM to the process; after `grace` seconds SIGKILL to the group."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait({self._ended}, timeout=grace)
        self.kill()
        await self.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group, at once."""
        if not self._ended.done():
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: a zombie group
            os.killpg(self.pid, signal.SIGKILL)

    async def _follow(self) -> int:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._output, "rb", 0)
        )
        reading = asyncio.create_task(self._read(reader))
        try:
            code = await self._process.wait()
            self._kill_group()  # what it started itself goes with it
            await asyncio.wait({reading}, timeout=1.0)
            return code
        finally:
            reading.cancel()
            transport.close()
            os.close(self._lifeline)

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await pipe.read(_LONGEST_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._keep(line)
        if rest:
            self._keep(rest)

    def _keep(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        self.last_lines.append(line)
        self._tell(self.part, line)
