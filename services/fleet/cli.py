"""The command line of `run_all.py`: from words to a running fleet, and to an exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, CycloptsError, Parameter

from services.errors import (
    FleetError,
    GaveUpError,
    PreflightError,
    RefusedError,
    SettingsError,
)
from services.fleet.beats import Listen
from services.fleet.output import Output, in_words
from services.fleet.plan import Part, carries, plan
from services.fleet.preflight import (
    api_door,
    bus_url,
    check_free,
    check_model,
    claimed,
    expanded,
)
from services.fleet.supervisor import Supervisor
from services.runtime.api_address import url_of
from services.runtime.settings import Settings, load_settings
from services.runtime.settings_text import to_toml

__all__ = ["main"]

STOPPED, FAILED, REFUSED, KILLED = 0, 1, 2, 130

_EXAMPLES = """
Examples:

    python run_all.py
        two encoder workers, the default model, everything in .consonance

    python run_all.py --workers 4 --model ./my-model --state ~/consonance
        a model of your own: a folder, or a hub id

    python run_all.py --print-config > consonance.toml
    python run_all.py --config consonance.toml
        every setting, with meaning, unit and default; then with your changes

    python run_all.py --bus tcp://0.0.0.0:5550
        for clients on other machines, each with a key of its own (CURVE)

    python run_all.py --bus nats://nats-1:4222,nats-2:4222,nats-3:4222
        on the servers of NATS JetStream, without a broker

    python run_all.py --json 2> fleet.log
        for programs: when ready, one line with "bus", "state", "pid", "api", "services"

Ctrl-C stops the fleet in order, a second one kills it. Exit codes:
0 stopped as asked, 1 failed, 2 refused to start, 130 killed.
"""

app = App(
    name="run_all.py",
    help="Start the whole fleet: the broker, the encoder workers and everything that learns.",
    help_epilogue=_EXAMPLES,
    help_format="plaintext",
    version_flags=[],
    result_action="return_value",
)
app["--help"].group = "Parameters"


@app.default
def _run(
    *,
    state: Path | None = None,
    workers: int | None = None,
    model: str | None = None,
    bus: str | None = None,
    config: Path | None = None,
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    print_config: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Start the fleet and stay until it is stopped.

    Parameters
    ----------
    state
        Folder of everything that outlives the fleet; made if absent. Default: .consonance
    workers
        Encoder processes. Default: two, or one on a machine with one core
    model
        Folder or hub id of a sentence-transformers model. Default: all-MiniLM-L6-v2
    bus
        Where the broker binds, ipc:///FOLDER or tcp://HOST:PORT; or the servers of a fleet
        without one, nats://HOST:PORT,… or tls://…. Default: in the state folder
    config
        Settings file (TOML); flags go before it. Default: none
    log_level
        The least that is logged. Default: info
    json
        When ready, write one JSON line to standard output; logs go to standard error anyway.
    print_config
        Print the settings in force, each with its meaning, and exit.
    """
    settings = load_settings(
        config,
        {
            "fleet.state": None if state is None else str(state),
            "fleet.workers": workers,
            "fleet.model": model,
            "fleet.bus": bus,
            "fleet.log_level": log_level,
        },
    )
    if print_config:
        print(to_toml(settings), end="")
        return STOPPED
    return _serve(settings, json=json)


def _serve(settings: Settings, *, json: bool) -> int:
    """Check, lock and run; returns the exit code. Raises `PreflightError`, `GaveUpError`."""
    root = expanded(settings.fleet.state).absolute()
    check_model(settings.fleet.model)
    url = bus_url(settings.fleet.bus, root)
    api = msgspec.structs.replace(
        settings.api, enabled=settings.api.enabled and settings.fleet.runs("api")
    )
    settings = msgspec.structs.replace(settings, api=api)
    with claimed(root) as keep:
        if carries(settings, url):
            check_free(url)
        with api_door(settings.api) as door:
            return _run_all(settings, root, url, door, keep, json=json)


def _run_all(
    settings: Settings,
    root: Path,
    url: str,
    door: socket.socket | None,
    keep: Callable[[], None],
    *,
    json: bool,
) -> int:
    # Not above: a start that is refused, or a cry for help, need not wait for ZeroMQ.
    from services.fleet.bus_beats import beats_of, doubts, prepare

    environment = prepare(url, root) if carries(settings, url) else {}
    doubt = doubts(url)
    settings = _in_force(settings, root, url, door)
    config = _write(settings, root)
    logs = root / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    keep()
    output = Output(logs, settings.fleet.log_format)
    if doubt is not None:
        output.say(doubt, "warning")
    parts = plan(
        settings,
        state=root,
        bus=url,
        config=config,
        environment=environment,
        door=None if door is None else door.fileno(),
    )
    listen = beats_of(url, environment)
    try:
        return asyncio.run(_supervise(parts, settings, listen, output, json=json))
    finally:
        output.close()


def _in_force(settings: Settings, root: Path, url: str, door: socket.socket | None) -> Settings:
    """The settings as every process shall see them, whatever its working folder."""
    model = settings.fleet.model
    if model is not None and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().absolute())
    fleet = msgspec.structs.replace(
        settings.fleet,
        state=str(root),
        bus=url,
        model=model,
        workers=settings.fleet.worker_count,
    )
    port = settings.api.port if door is None else door.getsockname()[1]
    api = msgspec.structs.replace(settings.api, port=port)
    return msgspec.structs.replace(settings, fleet=fleet, api=api)


def _write(settings: Settings, root: Path) -> Path:
    folder = root / "fleet"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "settings.toml"
    path.write_text(to_toml(settings, explain=False), "utf-8")
    return path


async def _supervise(
    parts: Sequence[Part], settings: Settings, listen: Listen, output: Output, *, json: bool
) -> int:
    root, url = Path(settings.fleet.state), settings.fleet.bus or ""
    api = _api(settings)
    fleet = Supervisor(
        parts, settings.fleet, listen=listen, reporter=output, own_bus=carries(settings, url)
    )
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            output.say("Stopping the fleet in order; once more to kill it.")
            fleet.stop()
        else:
            fleet.kill()

    def on_ready() -> None:
        output.status(fleet.keepers, url, root, api)
        if json:
            _announce(fleet, url, root, api)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has its reasons
            loop.add_signal_handler(number, on_signal)
    output.say(f"Starting {len(parts)} processes on {url}.")
    await fleet.run(on_ready)
    output.say("The fleet has stopped.")
    return KILLED if signals > 1 else STOPPED


def _api(settings: Settings) -> str | None:
    """Where the API is reached on this machine, None where it is off."""
    own = settings.api
    return url_of(own.host, own.port) if own.enabled and own.port is not None else None


def _announce(fleet: Supervisor, url: str, root: Path, api: str | None) -> None:
    services = [
        {
            "service": keeper.part.service,
            "instance": keeper.part.instance,
            "pid": keeper.child.pid if keeper.child else None,
        }
        for keeper in fleet.keepers
    ]
    line = {"bus": url, "state": str(root), "pid": os.getpid(), "api": api, "services": services}
    with suppress(OSError):  # whoever started us may have gone; the fleet serves all the same
        print(msgspec.json.encode(line).decode(), flush=True)


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line and exit; every refusal is one sentence on standard error."""
    try:
        code = app(
            list(sys.argv[1:] if words is None else words), exit_on_error=False, print_error=False
        )
    except (CycloptsError, SettingsError, PreflightError) as error:
        code = _tell(error, REFUSED)
    except GaveUpError as error:
        for line in error.last_lines:
            print(f"  | {in_words(line)[1]}", file=sys.stderr)
        code = _tell(error, REFUSED if isinstance(error, RefusedError) else FAILED)
    except FleetError as error:
        code = _tell(error, FAILED)
    sys.exit(code)


def _tell(error: Exception, code: int) -> int:
    print(f"run_all.py: {' '.join(str(error).split())}", file=sys.stderr)
    return code
