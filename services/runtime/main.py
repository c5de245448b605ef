"""The life of a process: arguments, bus, readiness, heartbeats, signals, drain."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from bus import Bus, BusError, connect
from schemas import Event, FleetHeartbeat, FleetStop
from services.errors import DuplicateError, ServiceError, SettingsError, StoreDamagedError
from services.runtime import alive, logs
from services.runtime.alone import alone
from services.runtime.namesakes import Namesakes, host_name, new_life
from services.runtime.service import Context, Service
from services.runtime.settings import Settings, load_settings
from services.runtime.state import StateFolder
from services.runtime.tracing_start import start_tracing

__all__ = ["arguments", "run", "serve"]

HEARTBEAT_SECONDS = 2.0
_HOPELESS = SettingsError, StoreDamagedError, DuplicateError
"""Nothing that a restart could mend."""
CLOSE_SECONDS = 2.5
"""Kept of the grace period for closing down, after the drain."""


def arguments(name: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options that every process of the fleet takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}",
        description=f"The {name} process. run_all.py starts the whole fleet; alone it joins one.",
    )
    parser.add_argument("--state", type=Path, default=None, help="state folder (.consonance)")
    parser.add_argument("--bus", default=None, help="bus URL (CONSONANCE_BUS; ipc in the state)")
    parser.add_argument("--config", type=Path, default=None, help="settings file (TOML)")
    parser.add_argument("--instance", default="1", help="number among its kind (1)")
    parser.add_argument("--model", default=None, help="model folder or hub id (MiniLM)")
    parser.add_argument("--log-level", default=None, help="debug, info, warning or error (info)")
    return parser.parse_args(argv)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings file, overridden by the command line."""
    given = {
        "fleet.state": None if options.state is None else str(options.state),
        "fleet.bus": options.bus,
        "fleet.model": options.model,
        "fleet.log_level": options.log_level,
    }
    return load_settings(
        options.config, {key: value for key, value in given.items() if value is not None}
    )


async def serve(
    kind: type[Service],
    context: Context,
    *,
    closing: Callable[[], None] = lambda: None,
) -> None:
    """Run one process until it is told to stop; raises what its background work raised.

    `closing` is called when an orderly stop has nothing left to do but to close.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    service = kind(context)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pulse = _Pulse(service)
    namesakes = Namesakes(service, pulse.life, lambda: pulse.state, pulse.say)
    held = contextlib.AsyncExitStack()
    try:
        await service.listen(FleetHeartbeat, namesakes.hear)
        pulse.start()
        await service.listen(FleetStop, lambda event: _obey(event, service, stop))
        setup = asyncio.create_task(_set_up(service, namesakes, held))
        whole = await _first(setup, service.failure, stop)
        if whole and not stop.is_set():
            # What was loaded stays: it is no longer looked through for what might be forgotten.
            gc.freeze()
            await pulse.enter("ready")
            await _first(asyncio.create_task(stop.wait()), service.failure, stop)
        await pulse.enter("draining")
        if whole:  # what was never set up has nothing in hand
            await _drain(service)
        closing()
    finally:
        await service.aclose()
        await held.aclose()
        await pulse.aclose()


async def _set_up(service: Service, namesakes: Namesakes, held: contextlib.AsyncExitStack) -> None:
    if service.single:  # before it takes what belongs to another
        await namesakes.heard()
    if service.single or service.keeps:
        folder, grace = service.state.of(service.name), service.settings.fleet.stop_grace
        await held.enter_async_context(alone(folder, patience=grace, log=service.log))
    await service.setup()


async def _drain(service: Service) -> None:
    grace = service.settings.fleet.stop_grace
    seconds = max(grace - CLOSE_SECONDS, grace / 2)
    try:
        async with asyncio.timeout(seconds):
            await service.drain()
    except TimeoutError:
        service.log.warning("not drained in time", seconds=seconds)


async def _obey(event: Event[FleetStop], service: Service, stop: asyncio.Event) -> None:
    if event.data.service in (None, service.name):
        stop.set()


async def _first(
    task: asyncio.Task[Any], failure: asyncio.Future[None], stop: asyncio.Event
) -> bool:
    """Wait for the task, the process's failure or the order to stop, whichever comes first.

    Returns whether the task has ended by itself; where it has not, it is cancelled.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        waited: set[asyncio.Future[Any]] = {task, failure, stopping}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
        if task.done():
            task.result()
        return task.done()
    finally:
        for waiting in (task, stopping):
            waiting.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)


class _Pulse:
    """Says that the process is alive, every 2 s and whenever its state changes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.state = "starting"
        self.life = new_life()
        self._host = host_name()
        self._process = psutil.Process()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._service.spawn(self._beat(), "pulse")
        signing = alive.keep(lambda: self.state, self._unsigned)
        self._service.spawn(signing, "sign of life")

    async def _beat(self) -> None:
        while True:
            await self.say()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _unsigned(self, error: OSError) -> None:
        self._service.log.warning("sign of life not written", why=str(error))

    async def enter(self, state: str) -> None:
        self.state = state
        self._service.log.info(state)
        await self.say()

    async def say(self) -> None:
        service = self._service
        try:
            await service.say(
                FleetHeartbeat(
                    service=service.name,
                    instance=service.instance,
                    pid=os.getpid(),
                    state=self.state,
                    queue=service.queue,
                    rss_bytes=self._process.memory_info().rss,
                    counters=dict(service.counters),
                    host=self._host,
                    life=self.life,
                )
            )
        except BusError as error:
            service.log.warning("heartbeat not sent", why=str(error))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        failure = self._service.failure
        failed = failure.done() and not failure.cancelled()
        if failed and isinstance(failure.exception(), DuplicateError):
            return  # who bears the name goes on
        self.state = "stopped"
        await self.say()


async def _join(kind: type[Service], options: argparse.Namespace, settings: Settings) -> None:
    state = StateFolder(Path(settings.fleet.state).absolute())
    bus: Bus = await connect(
        settings.fleet.bus or os.environ.get("CONSONANCE_BUS") or f"ipc://{state.root / 'bus'}",
        source=f"/{kind.name}/{options.instance}",
    )
    async with bus:
        context = Context(settings, bus, state, options.instance)
        await serve(kind, context, closing=_leave_soon)


def run(kind: type[Service], argv: Sequence[str] | None = None) -> None:
    """The whole of a `__main__`: exits 0 after an orderly stop, 1 on failure.

    2 on bad settings, a damaged store, or where another is what it would be: a restart would not
    help.
    """
    options = arguments(kind.name, argv)
    try:
        settings = settings_of(options)
    except ServiceError as error:
        sys.exit(_sentence(kind, error, code=2))
    logs.configure(kind.name, options.instance, settings.fleet.log_level)
    code = 0
    try:
        stop_tracing = start_tracing(kind.name, options.instance, settings.fleet.traces)
    except SettingsError as error:
        sys.exit(_sentence(kind, error, code=2))
    try:
        asyncio.run(_join(kind, options, settings))
    except (BusError, ServiceError) as error:
        code = _sentence(kind, error, code=2 if isinstance(error, _HOPELESS) else 1)
    stop_tracing()
    _leave(code)


def _leave_soon() -> None:
    """A thread that is still at work by then, at a load or a download, is not waited for."""
    last = threading.Timer(CLOSE_SECONDS, _leave, (0,))
    last.daemon = True
    last.start()


def _leave(code: int) -> NoReturn:
    """Everything is closed: the system frees torch in no time, the interpreter takes seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _sentence(kind: type[Service], error: Exception, *, code: int) -> int:
    print(f"{kind.name}: {error}", file=sys.stderr)
    return code
