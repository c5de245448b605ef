"""What the fleet stands on here: three servers with three replicas of all that is durable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

import nats

from bus import Bus
from tests.bus.nats_server import nats_version
from tests.torture.cluster import witness
from tests.torture.cluster.servers import REPLICAS, SERVERS, Cluster
from tests.torture.fleet.findings import Report
from tests.torture.fleet.ground import Ground
from tests.torture.fleet.schedule import ACTIONS, SUPERVISOR, TRAINING
from tests.torture.fleet_on_cluster.quake import Quake, plan

__all__ = ["ACTIONS_HERE", "OnCluster"]

BROKER, ROUTER, SECOND = "broker", "router", "router-2"
ACTIONS_HERE: Final = {
    **{name: actions for name, actions in ACTIONS.items() if name != BROKER},
    SECOND: ACTIONS[ROUTER],
}


class OnCluster(Ground):
    """A fleet without a broker, whose routers share the requests."""

    part = "fleet_on_cluster"
    serving = tuple(name for name in ACTIONS_HERE if name not in (TRAINING, SUPERVISOR))
    actions = ACTIONS_HERE
    settings = "[fleet]\nrouters = 2\n"
    calm = 0.0
    """The part `fleet` looks at memory."""

    @contextmanager
    def laid(self, folder: Path) -> Iterator[None]:
        place = folder / "nats"
        place.mkdir()
        with patch.dict(os.environ, {REPLICAS: str(len(SERVERS))}), Cluster(place) as servers:
            self._servers = servers
            self.arguments = (*super().arguments, "--bus", servers.url)
            yield

    async def shaken(self, seconds: float, seed: int, report: Report) -> None:
        quake = Quake(self._servers, seed, report.say)
        await quake.run(plan(seconds, seed))
        report.breaks(*(f"{name} ended by itself" for name in quake.died))
        report.figures |= {
            "version of the servers": nats_version(),
            "faults of servers": ", ".join(
                f"{what} {count}" for what, count in sorted(quake.done.items())
            ),
        }

    def lost(self) -> None:
        """All servers are killed at once; what they wrote is there."""
        for name in SERVERS:
            self._servers.end(name, kill=True)
        for name in SERVERS:
            self._servers.start(name)

    async def audit(self, bus: Bus, report: Report) -> None:
        client = await nats.connect(self._servers.url.split(","))
        try:
            names = witness.NAMES
            for stream in (names.journal, names.groups, names.dead):
                messages, counts = await witness.stored(client, stream)
                report.breaks(*witness.apart(stream, counts))
                report.figures[f"messages of {stream}, on each server"] = len(messages)
        finally:
            await client.close()
