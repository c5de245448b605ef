"""Discovery on the loopback interface: real mDNS, honest peers and forged ones."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
import zeroconf._core
from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText

from services.federation import discovery as module
from services.federation import neighbours, sightings
from services.federation.addresses import interfaces
from services.federation.discovery import Discovery, Sighting
from services.federation.errors import DiscoveryError
from services.federation.sightings import instance_of

_CLASS = 0x8001  # IN, and in place of what was told before
_SHARED = 0x0001
_RESPONSE = 0x8400


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append(f"{event}: {values}")

    exception = warning

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


class Node:
    """A discovery and all that it told."""

    def __init__(self, name: str, port: int = 4000, **options: Any) -> None:
        self.name = name
        self.fingerprint: str = options.pop("fingerprint", secrets.token_hex(16))
        self.port = port
        self.told: list[Sighting | str] = []
        self.log = Log()
        self.discovery = Discovery(
            self.name,
            self.fingerprint,
            port,
            tls=True,
            loopback=True,
            found=self.told.append,
            lost=self.told.append,
            log=self.log,
            **options,
        )

    def sees(self, name: str) -> Sighting | None:
        return next((s for s in self.discovery.sightings if s.node == name), None)


class Forger:
    """Says by multicast whatever it is told to, once, and never answers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        loopback = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)

    def say(
        self,
        name: str,
        *,
        instance: str | None = None,
        text: bytes | None = None,
        node: str | None = None,
        key: str = "ab" * 16,
        port: int = 4100,
        addresses: tuple[str, ...] = ("127.0.0.1",),
        ttl: int = 60,
        pointer_ttl: int = 4500,
    ) -> None:
        full = f"{instance or name}.{sightings.TYPE}"
        host = f"{name}{sightings.TYPE}"
        if text is None:
            text = written(f"node={node or name}", f"key={key}", "v=1", "tls=1")
        out = DNSOutgoing(_RESPONSE)
        out.add_answer_at_time(DNSPointer(sightings.TYPE, 12, _SHARED, pointer_ttl, full), 0)
        out.add_answer_at_time(DNSService(full, 33, _CLASS, ttl, 0, 0, port, host), 0)
        out.add_answer_at_time(DNSText(full, 16, _CLASS, ttl, text), 0)
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            kind = 28 if ":" in address else 1
            packed = socket.inet_pton(family, address)
            out.add_answer_at_time(DNSAddress(host, kind, _CLASS, ttl, packed), 0)
        for packet in out.packets():
            self._socket.sendto(packet, ("224.0.0.251", 5353))

    def goodbye(self, name: str, **options: Any) -> None:
        self.say(name, ttl=0, pointer_ttl=0, **options)

    def close(self) -> None:
        self._socket.close()


def written(*entries: str | bytes) -> bytes:
    data = [entry.encode() if isinstance(entry, str) else entry for entry in entries]
    return b"".join(bytes([len(entry)]) + entry for entry in data)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of other programs on this machine are not heard, and do not hear."""
    kind = f"_t{secrets.token_hex(4)}._tcp.local."
    for one in (module, neighbours, sightings):
        monkeypatch.setattr(one, "TYPE", kind)


@pytest.fixture
def forger() -> Any:
    forger = Forger()
    yield forger
    forger.close()


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts nodes that are less patient than others."""
    monkeypatch.setattr(module, "TICK", 0.1)
    monkeypatch.setattr(module, "SETTLE", 0.2)
    monkeypatch.setattr(module, "RETRY", 0.3)
    monkeypatch.setattr(neighbours, "PAUSE", 0.1)
    monkeypatch.setattr(zeroconf._core, "_REGISTER_TIME", 30)  # ms
    monkeypatch.setattr(zeroconf._core, "_UNREGISTER_TIME", 10)
    nodes: list[Node] = []

    async def begin(name: str, port: int = 4000, **options: Any) -> Node:
        node = Node(name, port, **options)
        nodes.append(node)
        await node.discovery.start()
        return node

    yield begin
    await asyncio.gather(*(node.discovery.aclose() for node in nodes))


async def test_two_nodes_find_each_other_and_hear_a_goodbye(start: Start) -> None:
    one = await start("one", 4001)
    other = await start("other.with-a.dot", 4002)

    await until(lambda: one.told and other.told)
    await one.discovery.aclose()
    await until(lambda: len(other.told) == 2)

    told = one.told[0]
    assert isinstance(told, Sighting)
    assert told.node == other.name
    assert (told.fingerprint, told.port, told.tls) == (other.fingerprint, 4002, True)
    assert told.addresses[0] == "127.0.0.1"
    assert len(one.told) == 1  # itself, it does not see
    assert other.told[1] == one.name
    assert not one.discovery.sightings
    assert not one.log.lines


async def test_changes_of_a_peer_are_told_again(start: Start, forger: Forger) -> None:
    node = await start("node")

    forger.say("peer", port=1)
    await until(lambda: len(node.told) == 1)
    forger.say("peer", port=2)
    await until(lambda: len(node.told) == 2)
    forger.say("peer", port=1, ttl=61)  # at once: the records of 2 are in force as well
    await until(lambda: len(node.told) == 3)
    forger.say("peer", port=1, addresses=("127.0.0.1", "127.0.0.2"))
    await until(lambda: len(node.told) == 4)
    forger.say("peer", port=1, addresses=("127.0.0.1", "127.0.0.2"), key="cd" * 16)
    await until(lambda: len(node.told) == 5)

    assert [sighting.port for sighting in node.told] == [1, 2, 1, 1, 1]
    assert node.told[3].addresses == ("127.0.0.1", "127.0.0.2")
    assert [node.told[3].fingerprint, node.told[4].fingerprint] == ["ab" * 16, "cd" * 16]


async def test_silent_peers_are_lost_and_living_ones_are_kept(start: Start, forger: Forger) -> None:
    node = await start("node")
    await start("living", 4001, ttl=2)
    forger.say("dead", ttl=1)
    await until(lambda: node.sees("living") and node.sees("dead"))

    await until(lambda: not node.sees("dead"))
    await asyncio.sleep(1.5)  # longer than its records would have lasted, had nobody asked

    assert node.sees("living")
    assert node.told[-1] == "dead"


async def test_what_no_node_says_is_refused(start: Start, forger: Forger) -> None:
    node = await start("node", 4000)
    good = (f"key={'ab' * 16}", "v=1", "tls=0")

    forger.say("a", text=b"")
    forger.say("b", text=written("node=b", good[0], "v=2", "tls=0"))
    forger.say("c", text=written(b"node=\xff\xfe", *good))
    forger.say("d", text=written("node=d", *good) + b"\0" * 600)
    forger.say("e", text=written("node=e", *good)[:-2])  # its last entry is cut off
    forger.say("f", text=written("node=f", "key=" + "AB" * 16, "v=1", "tls=0"))
    forger.say("g", text=written("node=g", "key=../../x", "v=1", "tls=0"))
    forger.say("h", text=written("node=h", *good[:2], "tls=maybe"))
    forger.say("i", node="../../etc/passwd")
    forger.say("j", node="somebody-else")
    forger.say("k", instance="K {{}}\n")
    forger.say("l", instance="l.dotted", node="l.dotted")
    forger.say("m", port=0)
    forger.say("n", addresses=("224.0.0.1", "::", "192.0.2.1", "::ffff:127.0.0.1", "fe80::1"))
    forger.say("o", addresses=("127.0.0.1",), port=4000)  # this node's own place
    forger.say("p", key=node.fingerprint)
    forger.say("last", addresses=("127.0.0.1", "192.0.2.1", "ff02::1"))
    await until(lambda: node.sees("last"))

    assert [sighting.node for sighting in node.told] == ["last"]
    assert node.told[0].addresses == ("127.0.0.1",)
    for letter in "abcdefghijklmnop":
        assert f"'{letter}" in node.log, letter


async def test_incomplete_services_take_no_place_and_may_be_completed(
    start: Start, forger: Forger
) -> None:
    node = await start("node", limit=3)
    for number in range(8):
        forger.say(f"hollow-{number}", addresses=())

    forger.say("solid")
    await until(lambda: node.sees("solid"))  # they take no place of those that are there
    forger.say("hollow-1", port=4101)
    await until(lambda: node.sees("hollow-1"))

    assert not node.log.lines


async def test_sightings_are_bounded_and_a_free_place_is_taken(
    start: Start, forger: Forger
) -> None:
    node = await start("node", limit=3)
    for number in range(30):
        forger.say(f"peer-{number}")
    await until(lambda: len(node.told) == 3)
    gone = node.told[0].node

    forger.goodbye(gone)
    await until(lambda: len(node.told) == 5)

    assert node.told[3] == gone
    assert len(node.discovery.sightings) == 3
    assert "too many nodes" in node.log
    assert len(node.log.lines) == 1


async def test_a_name_is_given_to_one_node(start: Start) -> None:
    watcher = await start("watcher", 4001)
    first = await start("twin", 4002, fingerprint="f" * 32)
    await until(lambda: watcher.sees("twin"))

    second = await start("twin", 4003, fingerprint="0" * 32)
    await until(lambda: "another node has this node's name" in second.log)
    await until(lambda: second.sees("watcher"))
    assert not second.discovery.announced
    assert watcher.sees("twin").fingerprint == first.fingerprint

    await first.discovery.aclose()
    await until(lambda: watcher.sees("twin") and watcher.sees("twin").port == 4003)
    assert second.discovery.announced
    assert [type(told) for told in watcher.told] == [Sighting, str, Sighting]


async def test_of_two_that_start_with_one_name_the_lower_key_keeps_it(start: Start) -> None:
    low, high = await asyncio.gather(
        start("twin", 4002, fingerprint="1" * 32), start("twin", 4003, fingerprint="2" * 32)
    )

    await until(lambda: "another node has this node's name" in high.log)
    await until(lambda: low.discovery.announced and not high.discovery.announced)
    # Who came before would have to hear a goodbye, which is a datagram as any and may be lost.
    watcher = await start("watcher", 4001)
    await until(lambda: watcher.sees("twin") and watcher.sees("twin").port == 4002)


@pytest.mark.parametrize("name", ["twin", "twin.dotted"])
async def test_a_name_that_is_announced_is_left_to_a_lower_key_alone(
    start: Start, forger: Forger, name: str
) -> None:
    node = await start(name, 4001, fingerprint="5" * 32)
    await until(lambda: node.discovery.announced)
    low, high = "1" * 32, "9" * 32

    forger.say("high", node=name, instance=instance_of(name, high), key=high)
    await until(lambda: high in node.log)
    assert node.discovery.announced
    forger.say("low", node=name, instance=instance_of(name, low), key=low)
    await until(lambda: not node.discovery.announced)
    assert low in node.log

    forger.goodbye("high", node=name, instance=instance_of(name, high), key=high)
    forger.goodbye("low", node=name, instance=instance_of(name, low), key=low)
    await until(lambda: node.discovery.announced)
    assert not node.discovery.sightings


async def test_a_forged_goodbye_is_answered_by_a_new_announcement(
    start: Start, forger: Forger
) -> None:
    node = await start("node", 4001)
    peer = await start("peer", 4002)
    await until(lambda: node.sees("peer"))

    forger.goodbye("peer", port=4002, key=peer.fingerprint)
    await until(lambda: len(node.told) == 3)

    assert [type(told) for told in node.told] == [Sighting, str, Sighting]
    assert node.sees("peer").fingerprint == peer.fingerprint


async def test_a_peer_that_flaps_leaves_nothing_behind(start: Start, forger: Forger) -> None:
    node = await start("node")
    await until(lambda: node.discovery.announced)
    await asyncio.sleep(0.2)  # its announcements are said
    process = psutil.Process()
    before = len(asyncio.all_tasks()), process.num_fds()

    for number in range(16):
        forger.say("flap", port=number + 1)
        await asyncio.sleep(0.02)
        forger.goodbye("flap", port=number + 1)
        await asyncio.sleep(0.02)
    await until(lambda: not node.sees("flap"))

    assert (len(asyncio.all_tasks()), process.num_fds()) == before
    found = [told for told in node.told if isinstance(told, Sighting)]
    assert len(node.told) == 2 * len(found)
    assert len(found) > 8
    assert not node.log.lines


async def test_nothing_is_left_after_the_end() -> None:
    process = psutil.Process()
    before = len(asyncio.all_tasks()), process.num_fds()

    for _ in range(3):
        node = Node(secrets.token_hex(4))
        await node.discovery.start()
        await node.discovery.aclose()
        await node.discovery.aclose()

    assert (len(asyncio.all_tasks()), process.num_fds()) == before


async def test_a_network_that_comes_late_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    real = interfaces
    monkeypatch.setattr(
        module, "interfaces", lambda *, loopback: real(loopback=loopback) if there else ()
    )
    late = await start("late", 4001)
    other = await start("other", 4002)
    assert not late.discovery.announced

    there.append(True)
    await until(lambda: late.sees("other") and other.sees("late"))


async def test_addresses_that_change_are_announced_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["127.0.0.1"]

    async def lookup(host: str, port: None, *, type: int) -> list[Any]:
        return [(0, 0, 0, "", (host_address, 0)) for host_address in hosts]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    await start("moving", 4001, advertise="some-host")
    other = await start("other", 4002)
    await until(lambda: other.told)

    hosts[:] = ["127.0.0.7", "192.0.2.1"]
    await until(lambda: "127.0.0.7" in other.told[-1].addresses)

    assert other.told[0].addresses == ("127.0.0.1",)
    assert "192.0.2.1" not in other.told[-1].addresses


async def test_a_host_that_is_not_known_is_not_announced(start: Start) -> None:
    node = await start("node", advertise="no-such-host.invalid")

    await until(lambda: "the host to advertise is not known" in node.log)

    assert not node.discovery.announced


async def test_a_port_that_another_program_holds_is_told_in_a_sentence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        try:
            held.bind(("", 5353))
        except OSError:
            pytest.skip("this machine has a program at UDP port 5353 that shares it")
        with pytest.raises(DiscoveryError, match="another program holds UDP port 5353"):
            await Node("node").discovery.start()


def test_long_and_dotted_names_fit_a_label() -> None:
    key = "0123456789abcdef" * 2

    assert instance_of("plain-name_1", key) == "plain-name_1"
    assert instance_of("a.b", key) == "a-b-01234567"
    assert len(instance_of("x" * 64, key)) == 63
