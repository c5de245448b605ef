"""The fleet's own bus: what it needs before it starts, and the beats that arrive over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bus import BusError, InvalidKey, connect
from bus.security import admit, make_broker_keys, make_client_keys, read_client
from bus.urls import secure_folder
from schemas import FleetHeartbeat, FleetStop
from services.errors import PreflightError
from services.fleet.beats import Beat, Listen, StopOrder
from services.fleet.plan import SERVICES
from services.fleet.preflight import brought
from services.runtime.namesakes import host_name

__all__ = ["OWN", "beats_of", "doubts", "prepare"]

OWN: Final[Mapping[str, str]] = {
    **{role.service: "service" for role in SERVICES},
    "fleet": "observer",
    "health": "observer",
    "consonance": "admin",
}
"""The keys of a fleet on tcp, and the role of each: its services, each bound to its own name; the
supervisor, the checks of health, and the command on this machine."""


def prepare(url: str, state: Path) -> dict[str, str]:
    """Make what the bus needs, and the environment in which its processes can connect.

    For `ipc` its folder, for `tcp` the keys of the broker and of the fleet's own processes, where
    they are missing; each finds its own in their folder. Raises `PreflightError`.
    """
    if brought(url):
        return {}
    try:
        if url.startswith("ipc://"):
            secure_folder(Path(url.removeprefix("ipc://")))
            return {}
        keys = state / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        server = make_broker_keys(keys)
        for name, role in OWN.items():
            _own_key(keys, name, role)
        return {"CONSONANCE_KEY": str(keys), "CONSONANCE_SERVER_KEY": str(server)}
    except BusError as error:
        raise PreflightError(f"The bus {url} cannot be prepared: {error}.") from error


def doubts(url: str) -> str | None:
    """What of the bus's promises does not hold there, in one sentence; raises `PreflightError`.

    Only a bus that is there already is asked.
    """
    if not brought(url):
        return None
    try:
        from bus.nats.probe import probe

        return asyncio.run(probe(url))
    except ModuleNotFoundError as error:
        raise PreflightError(
            "NATS needs one more package: pip install consonance[nats]."
        ) from error
    except BusError as error:
        raise PreflightError(f"The bus {url} cannot be used: {error}.") from error


def _own_key(keys: Path, name: str, role: str) -> None:
    """Make it, or let it in where an earlier start was cut off, or knew no roles."""
    pair, admitted = keys / f"{name}.key_secret", keys / "clients" / f"{name}.key"
    given = read_client(admitted)[1].get("role", ()) if admitted.exists() else ()
    if given == ["client"] or (admitted.exists() and not pair.exists()):
        raise InvalidKey(f"the name {name} is the fleet's own: revoke the key of that name")
    if not pair.exists():
        make_client_keys(keys, name, role=role)
    elif not given:
        admit(keys, name, role=role)


def beats_of(url: str, environment: Mapping[str, str]) -> Listen:
    """Listen on the fleet's own bus; a bus that fails raises `ConnectionError`.

    `environment` is what `prepare` returned.
    """
    files = {name: Path(value) for name, value in environment.items()}

    @asynccontextmanager
    async def listen() -> AsyncIterator[AsyncIterator[Beat | StopOrder]]:
        try:
            async with (
                await connect(
                    url,
                    source="/fleet/1",
                    key=files.get("CONSONANCE_KEY"),
                    server_key=files.get("CONSONANCE_SERVER_KEY"),
                ) as bus,
                bus.watch([FleetHeartbeat, FleetStop]) as events,
            ):
                yield _translated(events)
        except BusError as error:
            raise ConnectionError(str(error)) from error

    return listen


async def _translated(events: AsyncIterable[object]) -> AsyncIterator[Beat | StopOrder]:
    here = (None, host_name())
    async for event in events:
        said = getattr(event, "data", None)
        if isinstance(said, FleetHeartbeat):
            if said.host in here:  # elsewhere the same number is another process
                yield Beat(said.pid, said.state)
        elif isinstance(said, FleetStop):
            yield StopOrder(said.service)
