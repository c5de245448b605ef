"""What strikes the servers under the fleet; the fleet on them is in the long form alone."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path

import nats
import pytest

from tests.bus.kit import eventually
from tests.bus.nats_server import nats_binary
from tests.torture.cluster.schedule import MAJORITY
from tests.torture.cluster.servers import SERVERS, Cluster
from tests.torture.fleet import schedule
from tests.torture.fleet_on_cluster import quake
from tests.torture.fleet_on_cluster.ground import ACTIONS_HERE, OnCluster
from tests.torture.journal.history import Fault


@pytest.mark.parametrize("seed", range(5))
def test_servers_are_struck_one_at_a_time_and_a_majority_at_times(seed: int) -> None:
    made = quake.plan(240, seed)
    assert made == quake.plan(240, seed)
    assert sum(fault.kind == MAJORITY for fault in made) == 2
    struck = [fault for fault in made if fault.kind != MAJORITY]
    assert {fault.target for fault in struck} == set(SERVERS)
    assert {fault.kind for fault in struck} <= {"kill", "stop", "freeze"}
    assert all(one.at + one.lasts < other.at for one, other in pairwise(made))


def test_both_routers_are_struck_and_no_broker_is() -> None:
    faults = schedule.plan(240, 60, 1, ACTIONS_HERE)
    targets = {fault.target for fault in faults}
    assert {"router", "router-2", "encoder-1", "encoder-2", "factory"} <= targets
    assert "broker" not in targets
    assert targets == {*OnCluster.serving, schedule.TRAINING, schedule.SUPERVISOR}


async def test_whoever_was_struck_is_back_and_who_died_is_told_of(tmp_path: Path) -> None:
    nats_binary()
    with Cluster(tmp_path) as servers:
        shaken = quake.Quake(servers, 1, lambda line: None)
        faults = [
            Fault("freeze", "server-1", 0.0, 0.1),
            Fault("kill", "server-2", 0.0, 0.1),
            Fault("stop", "server-3", 0.0, 0.1),
            Fault(MAJORITY, "servers", 0.0, 0.1),
        ]
        await shaken.run(faults, apart=0.0)
        assert not shaken.died
        assert shaken.done.total() == 4
        servers.end("server-1", kill=True)
        os.kill(servers.start("server-1"), signal.SIGKILL)
        await eventually(lambda: servers.died() == ["server-1"])
        await shaken.run(faults[:1], apart=0.0)
        assert shaken.died == ["server-1"]
        for url in servers.url.removeprefix("nats://").split(","):
            client = await nats.connect(f"nats://{url}", allow_reconnect=False)
            assert client.is_connected
            await client.close()
