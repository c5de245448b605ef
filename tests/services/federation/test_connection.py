"""A connection to a peer: what becomes of it between calls."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from services.federation.connection import Connection
from services.federation.protocol import Endpoint
from tests.services.federation.nodes import staged

HOST = "127.0.0.1"


class Line:
    """Forwards connections to a port; a `doomed` one is reset as soon as it is used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server((HOST, 0))
        self.endpoint = Endpoint(HOST, self._listener.getsockname()[1])
        self.doomed = threading.Event()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                far = socket.create_connection((HOST, self._port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(*pair, near), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                if self.doomed.is_set() and source is near:
                    self.doomed.clear()
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                target.sendall(data)


@pytest.fixture
def line() -> Iterator[Line]:
    with staged() as stage:
        found = Line(stage.port)
        yield found
        found.close()


def test_one_that_died_unseen_is_made_again_by_the_call_that_finds_it_dead(line: Line) -> None:
    connection = Connection(line.endpoint)
    assert connection.health().node == "stage"

    line.doomed.set()
    assert connection.health().node == "stage"

    assert line.connections == 2
    connection.close()
