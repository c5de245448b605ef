"""Opening a bus by its URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bus.client.client import ClientBus
from bus.contract import Bus
from bus.errors import InvalidKey, InvalidUrl
from bus.memory import MemoryBus
from bus.nats.names import SCHEMES, place_of
from bus.security import pair_of, read_pair, read_public
from bus.urls import endpoints, secure_folder
from bus.zeromq import ZeroMQLink
from schemas import address_of

if TYPE_CHECKING:
    from bus.nats.link import NatsLink

__all__ = ["connect"]


async def connect(
    url: str | None = None,
    *,
    source: str,
    patience: float = 30.0,
    key: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Bus:
    """A bus, connected and ready: what is published now is heard, and answers are too.

    `url`: `ipc:///folder`, `tcp://host:5550`, `nats://host:4222` (with TLS `tls://…`) or
    `memory://name`; default: the variable `CONSONANCE_BUS`, else the broker of `.consonance` in
    the working folder. `source`: the name
    of this process on events (`/encoder/2`). `patience`: seconds that the broker may be away.
    `key`, `server_key`: files for tcp, default `CONSONANCE_KEY` and `CONSONANCE_SERVER_KEY`; where
    `key` is a folder, `encoder.key_secret` in it for whoever speaks as `/encoder/…`. NATS lets in
    by `CONSONANCE_NATS_CREDS` and certificates (docs/how-to/nats.md).
    Raises `InvalidUrl`, `InvalidKey`, `InsecureFolder`, `NotPermitted`, `Unreachable`.
    """
    url = url or os.environ.get("CONSONANCE_BUS") or f"ipc://{Path('.consonance/bus').absolute()}"
    if url.startswith("memory://"):
        bus: ClientBus = MemoryBus(url.removeprefix("memory://"), source=source, patience=patience)
        opening: ZeroMQLink | NatsLink | None = None
    else:
        nats = url.startswith(SCHEMES)
        opening = _nats(url, source) if nats else _link(url, source, key, server_key)
        bus = ClientBus(opening, source=source, patience=patience)
    try:
        if opening is not None:
            await opening.open(patience)
        await bus.open()
    except BaseException:
        await bus.aclose()
        raise
    return bus


def _nats(url: str, source: str) -> NatsLink:
    try:  # an extra: who needs no second machine needs no client of it
        from bus.nats.link import NatsLink
    except ModuleNotFoundError as e:
        if e.name != "nats":
            raise
        raise InvalidUrl("nats:// needs one more package: pip install consonance[nats]") from e
    return NatsLink(place_of(url), name=address_of(source))


def _link(
    url: str, source: str, key: str | Path | None, server_key: str | Path | None
) -> ZeroMQLink:
    places = endpoints(url)
    name = address_of(source)
    if not places.secured:
        if places.folder is not None and places.folder.exists():
            secure_folder(places.folder)
        return ZeroMQLink(url, places, name=name)
    pair = read_pair(pair_of(_file(key, "CONSONANCE_KEY", "this client's key pair"), source))
    server = read_public(_file(server_key, "CONSONANCE_SERVER_KEY", "the broker's public key"))
    return ZeroMQLink(url, places, name=name, pair=pair, server=server)


def _file(given: str | Path | None, variable: str, what: str) -> Path:
    named = given or os.environ.get(variable)
    if not named:
        raise InvalidKey(f"tcp needs {what}: name its file in {variable}")
    return Path(named)
