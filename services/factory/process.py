"""Runs the training child: tied to this process, polite to others, heard line by line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import psutil

from services.factory.errors import ChildError, MemoryExceeded
from services.runtime.priority import stand_back

__all__ = ["Progress", "attend", "end", "run_child", "start_child"]

NICENESS = 10
"""The child yields to the processes that serve."""

WATCH = 0.25
"""Seconds between two looks at the child's memory."""

_LINE = 1 << 16
_LAST = 5  # lines of standard error that an error quotes


class Progress(msgspec.Struct, frozen=True):
    """One line of the child's standard output."""

    phase: str
    step: int
    steps: int
    loss: float


async def run_child(
    argv: Sequence[str],
    *,
    threads: int,
    limit: float,
    memory: int | None = None,
    cwd: Path | None = None,
    heard: Callable[[Progress], Awaitable[None]],
) -> None:
    """Run the child to its end; cancelling this kills it.

    `threads`: CPU threads of its numeric libraries; the others as in `attend`, and what it raises.
    """
    child = await start_child(argv, threads=threads, cwd=cwd)
    await attend(child, limit=limit, memory=memory, heard=heard)


async def start_child(
    argv: Sequence[str], *, threads: int, cwd: Path | None = None, inherited: Sequence[int] = ()
) -> Process:
    """Start it, to be handed to `attend` or `end`; `inherited`: file descriptors that it gets."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,  # its end tells the child that this process is gone
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | dict.fromkeys(names, str(threads)),
        cwd=cwd,
        limit=_LINE,
        start_new_session=True,
        pass_fds=tuple(inherited),
    )
    try:
        await asyncio.to_thread(stand_back, NICENESS, child.pid)
    except BaseException:
        await end(child)
        raise
    return child


async def attend(
    child: Process,
    *,
    limit: float,
    memory: int | None = None,
    heard: Callable[[Progress], Awaitable[None]],
) -> None:
    """Hear a child to its end; cancelling this kills it.

    `limit`: seconds after which it is killed; `memory`: bytes, resident and its own children's
    too, beyond which it is.
    Raises `ChildError` where it fails, is killed or takes too long, `MemoryExceeded`.
    """
    last: deque[str] = deque(maxlen=_LAST)
    held: list[int] = []
    watch = asyncio.create_task(_watch(child.pid, memory, held))
    try:
        async with asyncio.timeout(limit):
            await asyncio.gather(_listen(child.stdout, heard), _collect(child.stderr, last))
            code = await child.wait()
    except TimeoutError as error:
        raise ChildError(f"training took more than {limit:.0f} s and was ended") from error
    finally:
        watch.cancel()
        await end(child)
    if held:
        raise MemoryExceeded(
            f"training held {held[0] / 1e6:.0f} MB of memory, more than the {memory or 0:,} bytes "
            "of factory.memory_budget, and was ended"
        )
    if code:
        said = " / ".join(last) or "nothing"
        raise ChildError(f"the training child ended with status {code} and said {said}")


async def end(child: Process) -> None:
    """Kill a child that still runs, and close what leads to it."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
    if child.stdin is not None:
        child.stdin.close()
        with contextlib.suppress(ConnectionError):
            await child.stdin.wait_closed()


async def _watch(pid: int, memory: int | None, held: list[int]) -> None:
    """End the child as soon as it holds too much; `held` then says how many bytes."""
    while memory is not None:
        found = await asyncio.to_thread(_resident, pid)
        if found > memory:
            held.append(found)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return
        await asyncio.sleep(WATCH)


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process and all below it; 0 where it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += each.memory_info().rss
    return total


async def _listen(
    stream: asyncio.StreamReader | None, heard: Callable[[Progress], Awaitable[None]]
) -> None:
    async for line in _lines(stream):
        with contextlib.suppress(msgspec.DecodeError):  # other lines are nobody's business
            await heard(msgspec.json.decode(line, type=Progress))


async def _collect(stream: asyncio.StreamReader | None, last: deque[str]) -> None:
    async for line in _lines(stream):
        if text := line.decode(errors="replace").strip():
            last.append(text)


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    """Lines as they come; one that is longer than the buffer is skipped."""
    if stream is None:
        return
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line
