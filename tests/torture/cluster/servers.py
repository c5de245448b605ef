"""Three servers of one JetStream cluster on this machine, each with its own ports and store."""

from __future__ import annotations

from pathlib import Path

from tests.bus.kit import free_port
from tests.bus.nats_server import NatsServer

__all__ = ["REPLICAS", "SERVERS", "Cluster"]

REPLICAS = "CONSONANCE_NATS_REPLICAS"
"""The variable by which whoever makes the streams is told how many servers keep each."""
SERVERS = ("server-1", "server-2", "server-3")


class Cluster:
    """`with Cluster(folder) as servers:` leaves none behind."""

    def __init__(self, folder: Path) -> None:
        routes = {name: f"127.0.0.1:{free_port()}" for name in SERVERS}
        known = ", ".join(f"nats://{place}" for place in routes.values())
        self._servers: dict[str, NatsServer] = {}
        for name, place in routes.items():
            (folder / name).mkdir()
            config = (
                f"server_name: {name}\n"
                f'cluster {{ name: storm, listen: "{place}", routes: [{known}] }}\n'
            )
            self._servers[name] = NatsServer(folder / name, config=config)
        hosts = (server.url.removeprefix("nats://") for server in self._servers.values())
        self.url = f"nats://{','.join(hosts)}"

    def __enter__(self) -> Cluster:
        for name in SERVERS:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in SERVERS:
            self.end(name, kill=True)

    def start(self, name: str) -> int:
        """Start one that is down; its process id, once it takes connections."""
        self._servers[name].start()
        return self._servers[name].pid

    def end(self, name: str, *, kill: bool) -> None:
        """End one at once, or in order."""
        self._servers[name].stop(kill=kill)

    def freeze(self, name: str) -> None:
        """Stop one where it is, until `thaw`; returns once it stands still."""
        self._servers[name].freeze()

    def thaw(self, name: str) -> None:
        """Let it go on."""
        self._servers[name].thaw()

    def died(self) -> list[str]:
        """Those that ended by themselves."""
        return [name for name, server in self._servers.items() if server.died()]
