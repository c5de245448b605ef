"""deploy/kubernetes/overlays/in-cluster-nats: its file makes a cluster that lets the fleet in."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import NotPermitted, connect
from bus.nats.names import place_of
from schemas import Event, FeedbackGiven
from tests.bus.kit import free_port
from tests.bus.nats_server import nats_binary
from tests.containers.cluster import OVERLAYS, named, secrets, workloads

FOUND = OVERLAYS["overlays/in-cluster-nats"]
SERVER = workloads(FOUND)["nats"]
ENVIRONMENT = named(FOUND, "ConfigMap", "consonance-environment")["data"]
CONF = named(FOUND, "ConfigMap", "nats")["data"]["nats.conf"]
LONGEST = 30.0
PORTS = {one["name"]: one["containerPort"] for one in SERVER.main["ports"]}
MOUNTS = {one["name"]: one["mountPath"] for one in SERVER.main["volumeMounts"]}
USER, PASSWORD = "consonance", "p0123456789abcdef"


def test_the_fleet_looks_for_the_servers_that_there_are() -> None:
    replicas = SERVER.raw["spec"]["replicas"]
    names = [
        f"{SERVER.name}-{number}.{SERVER.raw['spec']['serviceName']}" for number in range(replicas)
    ]
    place = place_of(ENVIRONMENT["CONSONANCE_BUS"])
    assert list(place.servers) == [f"nats://{name}:{PORTS['client']}" for name in names]
    assert int(ENVIRONMENT["CONSONANCE_NATS_REPLICAS"]) == replicas
    given = {one["name"]: one.get("value") for one in SERVER.main["env"]}
    routes = [
        f"nats-route://$(ROUTES_USER):$(ROUTES_PASSWORD)@{name}:{PORTS['routes']}" for name in names
    ]
    assert [given[f"ROUTE_{number}"] for number in range(replicas)] == routes
    order = list(given)
    assert order.index("ROUTES_PASSWORD") < order.index("ROUTE_0"), "what is used comes first"


def test_a_probe_asks_where_the_server_answers_and_its_disk_is_larger_than_its_streams() -> None:
    for kind in ("startup", "readiness", "liveness"):
        assert SERVER.main[f"{kind}Probe"]["httpGet"]["port"] == "monitor"
    assert f'http: "0.0.0.0:{PORTS["monitor"]}"' in CONF
    kept = re.search(r"max_file_store: (\d+)GB", CONF)
    disk = SERVER.claims["data"]["resources"]["requests"]["storage"]
    assert kept
    assert int(kept[1]) < int(disk.removesuffix("Gi"))
    grace = re.search(r'lame_duck_duration: "(\d+)s"', CONF)
    assert grace
    assert int(grace[1]) < SERVER.pod["terminationGracePeriodSeconds"]


@pytest.fixture
def cluster(short_path: Path) -> Iterator[list[dict[str, int]]]:
    """The pods' servers with the pods' file and variables, on this machine; their ports."""
    program = nats_binary()
    ports = [{name: free_port() for name in PORTS} for _ in range(SERVER.raw["spec"]["replicas"])]
    given = {"ROUTES_USER": "routes", "ROUTES_PASSWORD": "another"}
    running = []
    try:
        for number, mine in enumerate(ports):
            folder = short_path / str(number)
            folder.mkdir()
            text = CONF
            for name, port in PORTS.items():
                text = text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{mine[name]}")
            for mount in ("run", "data"):
                text = text.replace(MOUNTS[mount], str(folder / mount))
                (folder / mount).mkdir()
            (folder / "nats.conf").write_text(text, "utf-8")
            environment = {
                **os.environ,
                **given,
                "POD_NAME": f"nats-{number}",
                "CONSONANCE_NATS_USER": USER,
                "CONSONANCE_NATS_PASSWORD": PASSWORD,
                **{
                    f"ROUTE_{other}": f"nats-route://routes:another@127.0.0.1:{its['routes']}"
                    for other, its in enumerate(ports)
                },
            }
            words = [program, *SERVER.main["command"][1:-1], str(folder / "nats.conf")]
            with (folder / "log").open("wb") as log:
                running.append(subprocess.Popen(words, env=environment, stderr=log))
        yield ports
    finally:
        for process in running:
            process.kill()
            process.wait(20)


def healthy(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def test_three_servers_find_each_other_and_let_in_who_knows_the_word(
    cluster: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = [SERVER.main[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]
    paths = [probe["httpGet"]["path"] for probe in probes]
    ends = time.monotonic() + LONGEST
    while not all(healthy(one["monitor"], path) for one in cluster for path in paths):
        assert time.monotonic() < ends, "they are not healthy"
        await asyncio.sleep(0.1)

    url = "nats://" + ",".join(f"127.0.0.1:{one['client']}" for one in cluster)
    monkeypatch.setenv("CONSONANCE_NATS_REPLICAS", ENVIRONMENT["CONSONANCE_NATS_REPLICAS"])
    monkeypatch.setenv("CONSONANCE_NATS_USER", USER)
    monkeypatch.setenv("CONSONANCE_NATS_PASSWORD", PASSWORD)
    async with await connect(url, source="/test/1") as bus:
        given = Event(data=FeedbackGiven(query="q", relevant=("p",)), source=bus.source)
        (number,) = await bus.publish(given)
        assert number == 1, "it is durable: on a majority of the three"

    monkeypatch.setenv("CONSONANCE_NATS_PASSWORD", "another")
    with pytest.raises(NotPermitted):
        await connect(url, source="/test/1", patience=5)


def test_the_example_has_all_that_the_server_asks_for() -> None:
    asked = set(re.findall(r"\$(\w+)", CONF.partition("\n")[2]))
    given = {one["name"] for one in SERVER.main["env"]}
    given |= set(secrets()[SERVER.main["envFrom"][0]["secretRef"]["name"]])
    assert asked <= given
