"""The other end of the line, a process of its own: serves one card in four ways until it is told.

`python -m benchmarks.federation.sender FOLDER` prints one JSON object with the ports, and stops
when its standard input closes. `FOLDER` holds the card, the node's key and its certificates.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from lora.card import EXTENSION, LoRAFormat
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.credentials import Credentials
from services.federation.identity import NodeKey
from services.federation.server import LOOPBACK, LoRAFlightServer
from services.runtime.cards import describe

__all__ = ["NODE"]

NODE = "sender"


class Bare(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Flight as its documentation has it: the file as a table of one binary column."""

    def __init__(self, path: Path, piece: int) -> None:
        super().__init__(f"grpc://{LOOPBACK}:0")
        self._file = pa.memory_map(str(path)).read_buffer()
        self._piece = piece

    def do_get(self, context: Any, ticket: Any) -> Any:
        whole, piece = self._file, self._piece
        schema = pa.schema([("data", pa.large_binary())])

        def batches() -> Any:
            for start in range(0, whole.size, piece):
                part = whole.slice(start, min(piece, whole.size - start))
                ends = pa.array([0, part.size], pa.int64()).buffers()[1]
                column = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, part])
                yield pa.RecordBatch.from_arrays([column], schema=schema)

        return flight.GeneratorStream(schema, batches())


def sendfile(path: Path) -> int:
    """Send the file to whoever connects, by the kernel alone; the port."""
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, path.open("rb") as file:
                connection.sendfile(file)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def main(folder: Path) -> None:
    path = next(folder.glob("*" + EXTENSION))
    key = NodeKey.load_or_create(folder / "node.key")
    card = manifest.sign(describe(LoRAFormat.read(path)), key)
    catalogue = Catalogue(key.public)
    catalogue.put(card, path)
    ours = LoRAFlightServer(catalogue, node=NODE, key=key.public)
    secured = LoRAFlightServer(
        catalogue,
        node=NODE,
        key=key.public,
        host=LOOPBACK,
        credentials=Credentials.load(folder / NODE, NODE),
    )
    bare = {piece: Bare(path, piece << 10) for piece in (64, 512)}
    for server in (ours, secured):
        server.start()
    for plain in bare.values():
        threading.Thread(target=plain.serve, daemon=True).start()
    ports = {
        "sendfile": sendfile(path),
        "ours": ours.port,
        "secured": secured.port,
        **{f"bare {piece}": plain.port for piece, plain in bare.items()},
    }
    print(json.dumps({"ports": ports, "key": key.public}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
