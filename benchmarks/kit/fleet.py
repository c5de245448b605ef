"""A whole fleet, started the way a person does it: `run_all.py --json`, in a child process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.runtime import lifeline

__all__ = [
    "ROOT",
    "FleetFailed",
    "RunningFleet",
    "background",
    "fresh_state",
    "running_fleet",
    "settings_file",
]

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT = 180.0  # seconds; a machine that is busy with other things starts slowly
STOP_LIMIT = 40.0
LAST_LINES = 12
BACKGROUND = "background-*.npy"


class FleetFailed(Exception):
    """The fleet did not start, or ended by itself; carries the end of its log."""


@dataclass(frozen=True)
class RunningFleet:
    """A fleet that said it is ready."""

    bus: str
    """The URL to connect to."""
    seconds: float
    """From the start of the process to its readiness."""
    log: Path
    process: asyncio.subprocess.Process

    def check(self) -> None:
        """Raise `FleetFailed` if it has ended."""
        if self.process.returncode is not None:
            raise FleetFailed(_ending("the fleet ended by itself", self.process, self.log))


@contextlib.contextmanager
def fresh_state() -> Iterator[Path]:
    """A new state folder with a short path (sockets lie in it), removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="consonance-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def settings_file(folder: Path, sections: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write settings as TOML (numbers, texts, booleans) into `folder`; returns the file.

    The API is off unless they mention it: one process more would take its share of the cores.
    """
    lines: list[str] = []
    for name, values in {"api": {"enabled": False}, **sections}.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines.append("")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # a fleet takes no other as its state
    path = folder / "settings.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@asynccontextmanager
async def running_fleet(
    state: Path,
    *,
    config: Path | None = None,
    workers: int | None = None,
    model: str | None = None,
    bus: str | None = None,
    log: Path | None = None,
    within: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[RunningFleet]:
    """Start a fleet, wait until it is ready, stop it in order at the end.

    Its logs go to `log` (default: `fleet.log` beside the state). `within` are words that run the
    command after them in another place, by exec; `variables` come on top of the environment. It
    does not hear the terminal's Ctrl-C, but dies with this process. Raises `FleetFailed` with the
    last lines of the log.
    """
    state = state.absolute()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = log or state / "fleet.log"
    words = ["--json", "--state", str(state)]
    words += [] if config is None else ["--config", str(config.absolute())]
    words += [] if workers is None else ["--workers", str(workers)]
    words += [] if model is None else ["--model", model]
    words += [] if bus is None else ["--bus", bus]
    start = time.monotonic()
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *within,
            *lifeline.command("run_all", *words),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1", **(variables or {})},
        )
    try:
        bus = await _ready(process, log)
        yield RunningFleet(bus, time.monotonic() - start, log, process)
    finally:
        await asyncio.shield(_stop(process))


async def background(state: Path, limit: float = 180.0) -> list[Path]:
    """What a factory embeds once, at its first start, by the fleet's encoders: wait for its files.

    Until then not all of an encoder is its clients'. None, where it is not done within so many
    seconds.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while not (found := list((state / "factory").glob(BACKGROUND))):  # noqa: ASYNC110  (a file's name)
                await asyncio.sleep(0.2)
            return found
    return []


async def _ready(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None  # noqa: S101 (it was opened as a pipe above)
    try:
        async with asyncio.timeout(READY_LIMIT):
            line = await process.stdout.readline()
            if not line:
                await process.wait()
    except TimeoutError:
        raise FleetFailed(
            _ending(f"the fleet was not ready within {READY_LIMIT:.0f} s", process, log)
        ) from None
    if not line:
        raise FleetFailed(_ending("the fleet did not start", process, log))
    try:
        return str(json.loads(line)["bus"])
    except (ValueError, KeyError, TypeError):
        raise FleetFailed(f"the fleet said {line!r}, expected a JSON line with `bus`") from None


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask in order, then kill the group; an end by itself is left as it is."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                # `communicate` would close its standard input, which is its lifeline.
                if process.stdout is not None:
                    await process.stdout.read()
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _ending(what: str, process: asyncio.subprocess.Process, log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
    code = "" if process.returncode is None else f" (exit code {process.returncode})"
    return "\n".join([f"{what}{code}; the end of its log {log}:", *(f"  {it}" for it in lines)])
