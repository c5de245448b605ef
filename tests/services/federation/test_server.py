"""The Flight server as any tool sees it: what it lists is true, what it serves whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pyarrow import flight

from schemas import SkillCard
from services.federation import manifest
from services.federation.catalogue import Catalogue
from services.federation.connection import Connection
from services.federation.errors import NotOffered, PeerBusy, PeerError, ServerError
from services.federation.identity import NodeKey, verify
from services.federation.limits import Slots
from services.federation.protocol import FRAME, Endpoint
from services.federation.server import LoRAFlightServer
from tests.services.federation.nodes import AUTHOR, honest, noise, signed, wait

OTHER = NodeKey.generate()
DATA = noise(2 * FRAME + 12_345, 1)
SMALL = noise(999, 2)
FOREIGN = noise(5_000, 3)
CARD = signed(DATA, "banking", 2)
CARDS = {
    CARD.digest: DATA,
    (older := signed(SMALL, "banking", 1)).digest: SMALL,
    (foreign := signed(FOREIGN, "banking", 7, key=OTHER)).digest: FOREIGN,
}


@dataclass(frozen=True)
class World:
    server: LoRAFlightServer
    tool: Any
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("unspeakable")
    files = [(card, CARDS[card.digest]) for card in (older, foreign, CARD)]
    server = honest(folder, *files)
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as tool:
        yield World(server, tool, folder)
    server.stop()


def whole(tool: Any, ticket: Any) -> tuple[bytes, int]:
    """What a ticket gives: the slices joined, and how many there were."""
    table = tool.do_get(ticket).read_all()
    return b"".join(table.column("data").to_pylist()), table.num_rows


def in_frames(tool: Any, ticket: str) -> bytes:
    parts = []
    reader = tool.do_get(flight.Ticket(ticket.encode()))
    for chunk in reader:
        parts.append(chunk.app_metadata.to_pybytes())
    return b"".join(parts)


def test_what_is_listed_is_true_and_can_be_fetched_where_it_says(world: World) -> None:
    listed = {}
    for info in world.tool.list_flights():
        card = msgspec.json.decode(bytes(info.app_metadata), type=SkillCard)
        listed[card.digest] = card
        (endpoint,) = info.endpoints
        (location,) = endpoint.locations
        with flight.connect(location) as elsewhere:
            data, slices = whole(elsewhere, endpoint.ticket)
        assert data == CARDS[card.digest]
        assert (info.total_bytes, info.total_records) == (len(data), slices)
        assert info.schema == pa.schema([("data", pa.large_binary())])
    assert listed.keys() == CARDS.keys()
    assert listed[CARD.digest] == CARD


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("banking", CARD),  # its own before another author's newer one
        ("banking@1", older),
        ("banking@7", foreign),
        (foreign.digest, foreign),
    ],
)
def test_a_card_is_described_by_name_version_or_digest(
    world: World, text: str, meant: SkillCard
) -> None:
    for descriptor in (
        flight.FlightDescriptor.for_path(text),
        flight.FlightDescriptor.for_command(text),
    ):
        info = world.tool.get_flight_info(descriptor)
        assert msgspec.json.decode(bytes(info.app_metadata), type=SkillCard) == meant
        assert world.tool.get_schema(descriptor).schema == info.schema


@examples(max_examples=25)
@given(st.integers(0, len(DATA)))
def test_a_ticket_with_an_offset_gives_the_rest(world: World, offset: int) -> None:
    ticket = f"{CARD.digest}+{offset}" if offset else CARD.digest
    assert whole(world.tool, flight.Ticket(ticket.encode()))[0] == DATA[offset:]
    assert in_frames(world.tool, "frames/" + ticket) == DATA[offset:]


def test_the_actions_tell_health_and_signature(world: World) -> None:
    offered = {action.type for action in world.tool.list_actions()}
    assert offered == {"health", "signature"}
    (health,) = world.tool.do_action("health")
    told = msgspec.json.decode(health.body.to_pybytes())
    assert (told["node"], told["key"], told["cards"]) == ("honest", AUTHOR.public, 3)
    (answer,) = world.tool.do_action(flight.Action("signature", b"banking@7"))
    told = msgspec.json.decode(answer.body.to_pybytes())
    assert told["signer"] == OTHER.public
    assert verify(told["signer"], told["signature"], told["manifest"].encode())
    assert told["manifest"].encode() == manifest.manifest(foreign)


BAD_WORDS = (
    "../../etc/passwd",
    "/etc/passwd",
    "banking/../banking",
    "banking@0",
    "BANKING",
    "banking\n",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 64,
    "file:///etc/passwd",
    "%2e%2e%2fnode.key",
    "\x1b[31m",
    "\x00",
    "",
    "x" * 100_000,
)
BAD_TICKETS = (
    *(word.encode() for word in BAD_WORDS),
    *(b"frames/" + word.encode() for word in BAD_WORDS),
    CARD.digest.encode() + b"+%d" % (len(DATA) + 1),
    CARD.digest.encode() + b"+-1",
    CARD.digest.encode() + b"+01",
    CARD.digest.encode() + b"+99999999999999999999",
    CARD.digest.encode() + b"\n",
    b"\xff\xfe",
    b"frames/frames/skills",
)


def calls(tool: Any) -> Iterator[Callable[[], Any]]:
    """Everything that a client may ask in vain."""

    def act(action: Any) -> None:
        list(tool.do_action(action))

    def get(ticket: Any) -> None:
        tool.do_get(ticket).read_all()

    for word in BAD_WORDS:
        yield partial(tool.get_flight_info, flight.FlightDescriptor.for_path(word))
        yield partial(tool.get_flight_info, flight.FlightDescriptor.for_command(word))
        yield partial(act, flight.Action("signature", word.encode()))
        yield partial(act, flight.Action(word, b""))
    for paths in ((), ("banking", "banking"), (b"..", b"node.key")):
        yield partial(tool.get_flight_info, flight.FlightDescriptor.for_path(*paths))
    for ticket in BAD_TICKETS:
        yield partial(get, flight.Ticket(ticket))
    descriptor = flight.FlightDescriptor.for_path("../x")
    schema = pa.schema([("data", pa.binary())])

    def put() -> None:
        writer, _ = tool.do_put(descriptor, schema)
        writer.write_batch(pa.record_batch([pa.array([b"x" * 10])], schema=schema))
        writer.close()

    def exchange() -> None:
        writer, reader = tool.do_exchange(descriptor)
        writer.begin(schema)
        reader.read_all()

    yield put
    yield exchange


def test_no_path_goes_in_and_none_comes_out(world: World) -> None:
    for call in calls(world.tool):
        with pytest.raises(flight.FlightError) as refused:
            call()
        told = str(refused.value) + repr(refused.value.extra_info)
        for secret in ("Traceback", ".py", str(world.folder), "unspeakable", os.sep + "work"):
            assert secret not in told
        assert "File" not in told
    nonsense = flight.FlightDescriptor.for_path("../x")
    assert world.tool.get_schema(nonsense).schema.names == ["data"], "told of everything alike"
    assert not list(world.tool.list_flights(b"../../etc")), "nothing has that name"
    assert len(list(world.tool.list_flights(b"banking"))) == 3
    assert len(list(world.tool.list_flights(CARD.digest.encode()))) == 1


def test_only_what_is_in_the_catalogue_is_there(tmp_path: Path) -> None:
    secret = signed(noise(500, 9), "secret")
    (tmp_path / (secret.digest.removeprefix("sha256:") + ".lora.arrow")).write_bytes(noise(500, 9))
    catalogue = Catalogue(AUTHOR.public)
    path = tmp_path / "file"
    path.write_bytes(DATA)
    server = LoRAFlightServer(catalogue, node="a", key=AUTHOR.public)
    server.start()
    peer = Connection(Endpoint("127.0.0.1", server.port))
    try:
        catalogue.put(CARD, path)
        before = peer.health().revision
        assert peer.cards(9) == (CARD,)
        catalogue.remove(CARD.digest)
        assert peer.cards(9) == ()
        assert peer.health().revision != before
        for digest in (CARD.digest, secret.digest):
            with pytest.raises(NotOffered):
                peer.open(digest, 0, 5.0)
    finally:
        peer.close()
        server.stop()


def read(peer: Connection, card: SkillCard = CARD) -> bytes:
    return b"".join(frame.to_pybytes() for frame in peer.open(card.digest, 0, 10.0))


@pytest.mark.parametrize("harm", ["gone", "shorter", "a folder"])
def test_a_file_that_is_not_what_it_was_is_not_served(tmp_path: Path, harm: str) -> None:
    server = honest(tmp_path, (CARD, DATA))
    peer = Connection(Endpoint("127.0.0.1", server.port))
    path = tmp_path / CARD.digest[-16:]
    try:
        path.unlink()
        if harm == "shorter":
            path.write_bytes(DATA[:-1])
        elif harm == "a folder":
            path.mkdir()
        with pytest.raises(PeerError) as refused:
            read(peer)
        assert str(tmp_path) not in str(refused.value)
        assert "No such" not in str(refused.value)
        assert server.transfers == 0
        assert peer.health().cards == (0 if harm == "gone" else 1)
    finally:
        peer.close()
        server.stop()


def test_who_has_his_slots_gets_no_more_and_others_do(tmp_path: Path) -> None:
    data = noise(30 * FRAME, 5)  # more than fits between a server and who reads nothing
    card = signed(data)
    server = honest(tmp_path, (card, data), slots=Slots(2, 1))
    one, another = (Connection(Endpoint("127.0.0.1", server.port)) for _ in range(2))
    try:
        held = iter(one.open(card.digest, 0, 10.0))
        next(held)
        assert server.transfers == 1
        with pytest.raises(PeerBusy):
            read(another, card)  # the same address
        assert another.health().node == "honest"
        one.close()
        wait(lambda: server.transfers == 0, "the slot is free")
        assert read(another, card) == data
    finally:
        another.close()
        server.stop()


def test_who_reads_nothing_loses_his_slot_to_who_asks(tmp_path: Path) -> None:
    now = [0.0]
    data = noise(30 * FRAME, 5)
    card = signed(data)
    server = honest(tmp_path, (card, data), slots=Slots(1, 1, stall=15.0, clock=lambda: now[0]))
    lazy, eager = (Connection(Endpoint("127.0.0.1", server.port)) for _ in range(2))
    try:
        held = iter(lazy.open(card.digest, 0, 30.0))
        next(held)
        now[0] = 14.0
        with pytest.raises(PeerBusy):
            read(eager, card)

        def read_later() -> bool:
            now[0] += 40.0  # what was being sent when the time came was progress
            with contextlib.suppress(PeerBusy):
                return read(eager, card) == data
            return False

        wait(read_later, "the slot is given to who reads")
        with pytest.raises(PeerBusy):
            for _ in held:
                pass
    finally:
        lazy.close()
        eager.close()
        server.stop()


def test_a_peer_that_reads_nothing_delays_neither_the_end_nor_a_signal(tmp_path: Path) -> None:
    data = noise(30 * FRAME, 5)
    card = signed(data)

    async def told_to_stop() -> None:
        server = honest(tmp_path, (card, data))
        lazy = Connection(Endpoint("127.0.0.1", server.port))
        held = iter(lazy.open(card.digest, 0, 30.0))
        next(held)
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(5):
                await told.wait()
            await asyncio.to_thread(server.stop)
            with pytest.raises(PeerError):
                for _ in held:
                    pass
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            lazy.close()

    asyncio.run(told_to_stop())


def test_without_certificates_nothing_but_the_loopback_is_bound() -> None:
    for host in ("::", "192.0.2.1", "example.org"):
        with pytest.raises(ServerError, match="without certificates only a loopback"):
            LoRAFlightServer(Catalogue(AUTHOR.public), node="a", key=AUTHOR.public, host=host)


def test_a_port_in_use_is_said_to_be(world: World) -> None:
    with pytest.raises(ServerError, match=f"{world.server.port} cannot be bound"):
        LoRAFlightServer(
            Catalogue(AUTHOR.public), node="a", key=AUTHOR.public, port=world.server.port
        )


def test_before_its_start_a_server_asks_for_patience() -> None:
    server = LoRAFlightServer(Catalogue(AUTHOR.public), node="a", key=AUTHOR.public)
    peer = Connection(Endpoint("127.0.0.1", server.port))
    try:
        with pytest.raises(PeerBusy):
            peer.health()
        server.start()
        assert peer.health().node == "a"
    finally:
        peer.close()
        server.stop()


def test_addresses_of_one_link_are_not_told() -> None:
    server = LoRAFlightServer(Catalogue(AUTHOR.public), node="a", key=AUTHOR.public)
    server.host, server._hosts = "", lambda: ("192.0.2.1", "2001:db8::1", "fe80::1%eth0")
    assert server._uris() == [
        f"grpc://192.0.2.1:{server.port}",
        f"grpc://[2001:db8::1]:{server.port}",
    ]
    server.stop()
