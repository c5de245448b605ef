"""What a fleet needs before its first process, where each process is started by somebody else.

`python -m services.fleet.init` does what `run_all.py` does first: it finds the model, makes the
state folder and the keys of the bus where they are missing, and prints the environment in which
processes can connect. Doing it again changes nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.errors import PreflightError, ServiceError
from services.fleet.bus_beats import prepare
from services.fleet.preflight import bus_url, check_model, expanded, state_folder
from services.runtime.settings import load_settings

__all__ = ["initialise", "main"]

REFUSED = 2


def initialise(state: Path, bus: str, model: str | None = None) -> dict[str, str]:
    """Make what is missing; returns the variables with which processes find and enter the bus.

    Several that do so at once get the same keys. Raises `PreflightError`.
    """
    check_model(model)
    url = bus_url(bus, state)
    with _alone(state_folder(state)):
        files = prepare(url, state)
    return {"CONSONANCE_BUS": url, **files}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise PreflightError(f"The state folder {folder} cannot be used: {error.strerror}.") from (
            error
        )
    try:
        yield
    finally:
        os.close(handle)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 with one `NAME=value` a line, 2 with one sentence on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m services.fleet.init",
        description="Make the state folder and the keys that a fleet needs, and find its model.",
    )
    parser.add_argument("--state", default=None, help="state folder (.consonance)")
    parser.add_argument("--bus", default=None, help="bus URL (ipc in the state folder)")
    parser.add_argument("--config", type=Path, default=None, help="settings file (TOML)")
    options = parser.parse_args(argv)
    given = {"fleet.state": options.state, "fleet.bus": options.bus}
    try:
        fleet = load_settings(options.config, given).fleet
        state = expanded(fleet.state).absolute()
        made = initialise(state, fleet.bus or f"ipc://{state / 'bus'}", fleet.model)
    except ServiceError as error:
        print(f"init: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    for name, value in made.items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
