"""Where the fleet is: from a state folder or a URL to a bus that answers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from services.command.errors import Failed, InputRefused, NoFleet

if TYPE_CHECKING:
    from bus import Bus
    from services.runtime.settings import Settings

__all__ = ["HERE", "HOME", "Home", "Place", "connected"]

PATIENCE: Final = 3.0
"""Seconds for a broker to answer; later there is no fleet."""

_DEFAULT: Final = ".consonance"
NAME: Final = "consonance"
"""Who the command speaks as, and its key in the state folder."""


@Parameter(name="*")
@dataclass(frozen=True)
class Home:
    """A state folder, for what needs no running fleet."""

    state: Annotated[Path | None, Parameter(help="The state folder. Default: .consonance")] = None

    @property
    def folder(self) -> Path:
        """The state folder, from the root; it may not be there."""
        try:
            return Path(self.state or _DEFAULT).expanduser().absolute()
        except RuntimeError:  # nobody's home: then it is a name like any other
            return Path(self.state or _DEFAULT).absolute()

    @property
    def settings(self) -> Settings:
        """The settings in force where a fleet was started, else the defaults.

        Raises `SettingsError`.
        """
        from services.runtime.settings import load_settings

        file = self.folder / "fleet" / "settings.toml"
        return load_settings(file if file.is_file() else None)


@Parameter(name="*")
@dataclass(frozen=True)
class Place(Home):
    """A fleet."""

    bus: Annotated[
        str | None,
        Parameter(
            help="The fleet's bus, ipc:///FOLDER, tcp://HOST:PORT or nats://HOST:PORT. "
            "Default: as it runs"
        ),
    ] = None

    @property
    def url(self) -> str:
        """The bus: as given, as the state folder's fleet runs, or CONSONANCE_BUS."""
        if self.bus is not None:
            return self.bus
        named = os.environ.get("CONSONANCE_BUS")
        if self.state is None and named:
            return named
        return self.settings.fleet.bus or f"ipc://{self.folder / 'bus'}"

    def key_files(self) -> tuple[Path | None, Path | None]:
        """This client's key pair and the broker's public key: where the environment names none,
        the fleet's own."""
        keys = self.folder / "keys"
        own, server = keys / f"{NAME}.key_secret", keys / "broker.key"
        return (
            own if "CONSONANCE_KEY" not in os.environ and own.exists() else None,
            server if "CONSONANCE_SERVER_KEY" not in os.environ and server.exists() else None,
        )

    def source(self) -> str:
        """A name of this process's own, below what its key may speak as; raises `InvalidKey`."""
        from bus.security import speaker

        bound = f"/{NAME}/"
        if self.url.startswith("tcp://") and (named := os.environ.get("CONSONANCE_KEY")):
            pair = Path(named)
            bound = speaker(pair) if pair.is_file() else bound
        own = f"{os.getpid()}-{secrets.token_hex(3)}"
        return f"{bound}{own}" if bound.endswith("/") else bound


HOME: Final = Home()
HERE: Final = Place()


@asynccontextmanager
async def connected(at: Place) -> AsyncIterator[Bus]:
    """A bus of the fleet that runs there, under a name of this process's own.

    Raises `NoFleet` within some 3 s, `InputRefused` for a URL or key that cannot be used.
    """
    from bus import BusError, InsecureFolder, InvalidKey, InvalidUrl, Unreachable, connect

    url = at.url
    own, server = at.key_files()
    try:
        source = at.source()
        async with asyncio.timeout(PATIENCE):
            await _knock(url)
            bus = await connect(url, source=source, key=own, server_key=server)
    except (TimeoutError, Unreachable) as error:
        raise NoFleet(_nobody(url, f"nothing answers within {PATIENCE:g} s")) from error
    except (InvalidUrl, InvalidKey, InsecureFolder) as error:
        raise InputRefused(str(error)) from error
    except BusError as error:
        raise Failed(str(error)) from error
    async with bus:
        yield bus


async def _knock(url: str) -> None:
    """Raise `NoFleet` at once where no socket is open; what is no URL of ours is left to others."""
    try:
        if url.startswith("ipc:///"):
            path = Path(url.removeprefix("ipc://")) / "ingress.sock"
            _, writer = await asyncio.open_unix_connection(path)
        elif url.startswith("tcp://") and (parts := urlsplit(url)).hostname and parts.port:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        else:
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NoFleet(_nobody(url, reason)) from error
    writer.close()


def _nobody(url: str, reason: str) -> str:
    return (
        f"no fleet runs at {url} ({reason}); `consonance up` starts one, "
        "--state or --bus names another"
    )
