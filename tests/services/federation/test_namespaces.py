"""Networks of namespaces on this machine: they carry, they hinder, they go; and mDNS in them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.kit.namespaces import PREFIX, ROOT, Network, remove_leftovers, unavailable

SPOTTER = str(Path(__file__).with_name("spotter.py"))
DELAY = 0.15

CONNECT = """
import socket, sys, time
start = time.monotonic()
with socket.create_connection((sys.argv[1], 5000), timeout=float(sys.argv[2])) as peer:
    peer.sendall(b"x" * 300_000)
    peer.shutdown(socket.SHUT_WR)
    print(time.monotonic() - start, peer.recv(100).decode())
"""

LISTEN = """
import socket
server = socket.create_server(("::", 5000), family=socket.AF_INET6, dualstack_ipv6=True)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 5001))
group = socket.inet_aton("224.0.0.251") + socket.inet_aton("10.77.0.1")
datagrams.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("ready", flush=True)
print(datagrams.recv(100).decode(), flush=True)
while True:
    peer, _ = server.accept()
    with peer:
        peer.sendall(str(sum(len(data) for data in iter(lambda: peer.recv(65536), b""))).encode())
"""


@pytest.fixture(autouse=True, scope="module")
def possible() -> None:
    why = unavailable()
    if why is not None:
        pytest.skip(why)


def left() -> list[str]:
    """The namespaces of this process."""
    return [name for name in os.listdir("/run/netns") if name.startswith(f"{PREFIX}{os.getpid()}-")]


def python(network: Network, node: int, code: str, *words: str) -> subprocess.Popen[str]:
    return network.run(
        node,
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def connect(network: Network, address: str, limit: float = 10) -> tuple[float, int] | None:
    """(seconds, bytes that arrived) of a connection from node 1; None where there is none."""
    said, _ = python(network, 1, CONNECT, address, str(limit)).communicate(timeout=30)
    words = said.split()
    return (float(words[0]), int(words[1])) if words else None


def test_nodes_reach_each_other_and_are_hindered_as_they_are_told() -> None:
    interfaces = psutil.net_if_addrs()
    with Network(nodes=2) as network:
        server = python(network, 0, LISTEN)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        multicast = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.sendto(b'heard', ('224.0.0.251', 5001))"
        )
        assert python(network, 1, multicast).wait(10) == 0
        assert server.stdout.readline() == "heard\n"

        for address in (network.four(0), network.six(0)):
            answer = connect(network, address)
            assert answer is not None
            assert answer[1] == 300_000

        network.netem(1, delay_ms=DELAY * 1e3)
        delayed = connect(network, network.four(0))
        assert delayed is not None
        assert delayed[0] >= DELAY  # it connects with one delayed packet, and sends another
        assert delayed[1] == 300_000

        network.netem(1, loss=100)
        assert connect(network, network.four(0), 0.3) is None
        network.clear(1)
        assert connect(network, network.four(0)) is not None
        network.cut(1)
        assert connect(network, network.six(0), 0.3) is None
        network.mend(1)
        assert connect(network, network.six(0)) is not None
        assert connect(network, "192.0.2.1", 0.3) is None  # there is no way out
        process = psutil.Process(server.pid)

    assert not left()
    assert not process.is_running()
    assert psutil.net_if_addrs() == interfaces


def test_an_exception_leaves_nothing_behind() -> None:
    def fail() -> None:
        with Network(nodes=1) as network:
            network.run(0, ["sleep", "60"])
            assert left()
            raise KeyError("what went wrong")

    with pytest.raises(KeyError, match="what went wrong"):
        fail()

    assert not left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_maker_that_is_ended_leaves_nothing_or_the_next_one_removes_it(
    number: signal.Signals,
) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.kit.namespaces", "--nodes", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdout is not None
    name = maker.stdout.readline().split()[0]
    with maker:
        assert os.path.exists(f"/run/netns/{name}")
        assert name not in remove_leftovers()  # of the living, nothing is taken
        maker.send_signal(number)
        code = maker.wait(20)

    if number == signal.SIGKILL:
        assert os.path.exists(f"/run/netns/{name}")
        remove_leftovers()
    else:
        assert code == 128 + number
    assert not os.path.exists(f"/run/netns/{name}")


class Spotter:
    """A discovery in a node, and what it has told."""

    def __init__(self, network: Network, node: int, name: str, where: str = "outside") -> None:
        self.heard: list[dict[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = network.run(
            node,
            [sys.executable, SPOTTER, name, name[0] * 32, str(4000 + node), where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.until(lambda: {"started": name} in self.heard)

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # the network is closed
            for line in self.process.stdout or ():
                self._lines.put(line)

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.heard.append(json.loads(self._lines.get(timeout=deadline - time.monotonic())))

    def found(self, name: str, address: str = "") -> bool:
        """Whether that node was told with an address that begins so; `fe80::` with its scope."""
        told = [line["found"] for line in self.heard if "found" in line]
        return any(
            name == who
            and any(a.startswith(address) and ("%eth0" in a) == a.startswith("fe80") for a in at)
            for who, _port, *at in told
        )

    def lost(self, name: str) -> bool:
        return {"lost": name} in self.heard


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(nodes=2) as network:
        yield network


def test_discovery_between_nodes_whose_network_changes(network: Network) -> None:
    network.cut(1)
    inner = Spotter(network, 0, "dd", "loopback")
    one = Spotter(network, 0, "aa")
    two = Spotter(network, 1, "bb")  # without a network: it waits
    network.mend(1)

    two.until(lambda: two.found("aa", network.four(0)))
    two.until(lambda: two.found("aa", network.six(0)))
    two.until(lambda: two.found("aa", "fe80::"))
    one.until(lambda: one.found("bb", network.four(1)))

    moved = ["ip", "addr", "replace", "10.77.0.99/24", "dev", "eth0"]
    assert network.run(0, moved).wait(10) == 0
    two.until(lambda: two.found("aa", "10.77.0.99"))

    one.process.kill()
    two.until(lambda: two.lost("aa"))
    again = Spotter(network, 0, "cc")
    two.until(lambda: two.found("cc"))
    again.process.communicate("")  # it says goodbye
    two.until(lambda: two.lost("cc"))

    # A node that keeps to itself neither told anybody nor heard of anybody.
    assert inner.heard == [{"started": "dd"}]
    assert not one.found("dd")
    assert not two.found("dd")
