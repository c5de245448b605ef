"""Stores of cards that lie in an object store."""

from __future__ import annotations

from pathlib import Path

from lora.object_place import ObjectPlace
from lora.objects import Objects
from lora.remote_store import FOLDER, RemoteCardStore
from tests.object_server import ObjectServer

__all__ = ["at", "key", "machine", "place", "write"]


def machine(
    folder: Path,
    place: ObjectPlace,
    *,
    deadline: float = 20.0,
    room: int = 1 << 30,
    max_bytes: int = 1 << 20,
) -> RemoteCardStore:
    """The store of a machine with this folder."""
    objects = Objects(place, FOLDER, ".lora.arrow", deadline=deadline)
    return RemoteCardStore(folder, objects, cache_bytes=room, max_bytes=max_bytes)


def at(server: ObjectServer, folder: Path, *, deadline: float = 20.0) -> RemoteCardStore:
    """Likewise, of this server."""
    return machine(folder, place(server), deadline=deadline)


def place(server: ObjectServer) -> ObjectPlace:
    """Where its cards are."""
    return ObjectPlace(f"{server.url}/a/prefix", server.endpoint)


def key(server: ObjectServer, digest: str | None) -> str:
    """The path of a card's request to the server."""
    assert digest is not None
    name = digest.removeprefix("sha256:")
    return f"/{server.bucket}/a/prefix/cards/{name}.lora.arrow"


def write(server: ObjectServer, digest: str, data: bytes) -> None:
    """Have anything lie there under a card's name."""
    with place(server).connect().open_output_stream(key(server, digest)[1:]) as sink:
        sink.write(data)
