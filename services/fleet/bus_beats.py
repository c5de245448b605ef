"""The fleet's own bus: what it needs before it starts, and the beats that arrive over it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bus import BusError, connect
from bus.security import make_broker_keys, make_client_keys
from bus.urls import secure_folder
from schemas import FleetHeartbeat, FleetStop
from services.errors import PreflightError
from services.fleet.beats import Beat, Listen, StopOrder

__all__ = ["beats_of", "prepare"]

_OWN_CLIENT = "fleet"  # the key that all processes of the fleet share


def prepare(url: str, state: Path) -> dict[str, str]:
    """Make what the bus needs, and the environment in which its processes can connect.

    For `ipc` its folder, for `tcp` the keys of the broker and of the fleet itself, where they are
    missing. Raises `PreflightError`.
    """
    try:
        if url.startswith("ipc://"):
            secure_folder(Path(url.removeprefix("ipc://")))
            return {}
        keys = state / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        server = make_broker_keys(keys)
        own = keys / f"{_OWN_CLIENT}.key_secret"
        if not own.exists():
            make_client_keys(keys, _OWN_CLIENT)
        return {"CONSONANCE_KEY": str(own), "CONSONANCE_SERVER_KEY": str(server)}
    except BusError as error:
        raise PreflightError(f"The bus {url} cannot be prepared: {error}.") from error


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
    async for event in events:
        said = getattr(event, "data", None)
        if isinstance(said, FleetHeartbeat):
            yield Beat(said.pid, said.state)
        elif isinstance(said, FleetStop):
            yield StopOrder(said.service)
