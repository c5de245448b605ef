"""Adversaries that call: whatever they hold, ask or leave unread, a good peer is served."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import flight

from services.federation import connection as connections
from services.federation.admission import MOST_EACH
from services.federation.authority import create_authority, host_name, issue
from services.federation.connection import Connection
from services.federation.credentials import Credentials
from services.federation.errors import PeerBusy, PeerError, PeerUnreachable
from services.federation.limits import Slots
from services.federation.protocol import FRAME, SKILLS, Endpoint
from services.federation.server import LoRAFlightServer
from tests.services.federation.nodes import (
    AUTHOR,
    client_of,
    honest,
    noise,
    signed,
    staged,
    wait,
)

DATA = noise(30 * FRAME, 1)
CARD = signed(DATA)
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)


@dataclass(frozen=True)
class World:
    server: LoRAFlightServer
    folder: Path

    def load(self, name: str, node: str, now: datetime = NOW) -> Credentials:
        found = Credentials.load(self.folder / name, node, now=now)
        assert found is not None
        return found

    def connect(self, node: str) -> Connection:
        """A member of the federation."""
        return Connection(self.endpoint, node="alice", credentials=self.load(node, node))

    def tool(self, node: str) -> Any:
        """The same, as anybody's own program."""
        shown = self.load(node, node)
        return flight.FlightClient(
            self.endpoint.uri,
            tls_root_certs=shown.authority,
            cert_chain=shown.certificate,
            private_key=shown.key,
            override_hostname=host_name("alice"),
        )

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.server.port, True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    create_authority(folder / "ca", "Ours", now=LONG_AGO)
    create_authority(folder / "foreign-ca", "Ours", now=LONG_AGO)
    for node in ("alice", "bob", "mallory"):
        issue(folder / "ca", node, folder / node, now=NOW)
    issue(folder / "ca", "bob", folder / "expired", days=1, now=LONG_AGO)
    issue(folder / "foreign-ca", "bob", folder / "foreign", now=NOW)
    credentials = Credentials.load(folder / "alice", "alice")
    server = honest(
        folder,
        (CARD, DATA),
        node="alice",
        host="127.0.0.1",
        credentials=credentials,
        slots=Slots(6, 4, stall=15.0),
    )
    yield World(server, folder)
    server.stop()


def whole(peer: Connection) -> bytes:
    return b"".join(frame.to_pybytes() for frame in peer.open(CARD.digest, 0, 20.0))


@pytest.fixture(autouse=True)
def serving(world: World) -> Iterator[None]:
    """During and after each attack a good peer has its card."""
    yield
    peer = world.connect("bob")
    assert peer.health().node == "alice"
    assert peer.cards(9) == (CARD,)
    assert whole(peer) == DATA
    peer.close()
    wait(lambda: world.server.transfers == 0, "no transfer is left", 10.0)


def test_who_reads_nothing_keeps_only_himself_from_being_served(world: World) -> None:
    with contextlib.ExitStack() as stack:
        mallory = world.connect("mallory")
        stack.callback(mallory.close)
        held = []
        for _ in range(4):
            stream = mallory.open(CARD.digest, 0, 20.0)
            next(iter(stream))
            held.append(stream)
        with pytest.raises(PeerBusy):
            whole(mallory)
        good = world.connect("bob")
        stack.callback(good.close)
        assert whole(good) == DATA


def test_the_calls_of_one_peer_are_bounded(tmp_path: Path) -> None:
    """A long list that is not read holds a thread of the server's, and no slot."""
    files = [noise(100, seed) for seed in range(30)]
    cards = [(signed(data, "long", description="x" * 400_000), data) for data in files]
    server = honest(tmp_path, *cards)
    reading_little = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    where = f"grpc://127.0.0.1:{server.port}"
    tool = flight.FlightClient(where, generic_options=reading_little)
    ask = partial(tool.do_get, flight.Ticket(SKILLS))
    readers = [ask() for _ in range(MOST_EACH)]
    with pytest.raises(flight.FlightUnavailableError, match="too many"):
        ask()
    for reader in readers:
        reader.cancel()

    def heard() -> bool:
        with contextlib.suppress(flight.FlightUnavailableError):
            return sum(1 for _ in ask()) == len(cards)
        return False

    wait(heard, "it may ask again")
    tool.close()
    server.stop()


def test_uploads_are_refused_before_they_are_read(world: World) -> None:
    tool = world.tool("mallory")
    before = psutil.Process().memory_info().rss
    schema = pa.schema([("data", pa.large_binary())])
    batch = pa.record_batch([pa.array([bytes(8 << 20)], pa.large_binary())], schema=schema)

    def put() -> None:
        writer, _ = tool.do_put(flight.FlightDescriptor.for_path("../../x"), schema)
        for _ in range(100):
            writer.write_batch(batch)
        writer.close()

    def exchange() -> None:
        _, reader = tool.do_exchange(flight.FlightDescriptor.for_command("x"))
        reader.read_chunk()

    for upload in (put, exchange) * 5:
        with pytest.raises(flight.FlightError, match="no uploads"):
            upload()
    assert psutil.Process().memory_info().rss - before < 200 << 20
    tool.close()


def test_huge_questions_are_refused(world: World) -> None:
    tool = world.tool("mallory")
    huge = "banking" * (1 << 20)
    for ask in (
        lambda: tool.do_get(flight.Ticket(huge)).read_all(),
        lambda: tool.get_flight_info(flight.FlightDescriptor.for_path(huge)),
        lambda: list(tool.do_action(flight.Action("signature", huge.encode()))),
        lambda: list(tool.do_action(flight.Action(huge, b""))),
    ):
        with pytest.raises(flight.FlightError) as refused:
            ask()
        assert len(str(refused.value)) < 1000, "nothing of it comes back"
    assert list(tool.list_flights(huge.encode())) == []
    tool.close()


def test_many_who_ask_garbage_at_once(world: World) -> None:
    def ask() -> None:
        tool = world.tool("mallory")
        for number in range(40):
            with contextlib.suppress(pa.ArrowException):
                tool.do_get(flight.Ticket(noise(50, number))).read_all()
            with contextlib.suppress(pa.ArrowException):
                list(tool.do_action(flight.Action("x" * number, noise(50, number))))
        tool.close()

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    good = world.connect("bob")
    assert whole(good) == DATA
    good.close()
    for asker in askers:
        asker.join()


HELD: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "half a handshake": lambda: b"\x16\x03\x01\x02\x00\x01\x00",
    "noise": lambda: noise(4000, 3),
    "plain HTTP/2": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "HTTP": lambda: b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("words", HELD)
def test_connections_that_are_held_open_keep_nobody_out(world: World, words: str) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            taken = socket.create_connection(("127.0.0.1", world.server.port))
            stack.callback(taken.close)
            with contextlib.suppress(OSError):
                taken.sendall(HELD[words]())
        good = world.connect("bob")
        assert whole(good) == DATA
        good.close()


def test_a_member_that_speaks_half_of_http2_keeps_nobody_out(world: World) -> None:
    """Its window is zero: no answer to it can ever be sent."""
    context = ssl.create_default_context(cadata=world.load("mallory", "mallory").authority.decode())
    context.load_cert_chain(
        world.folder / "mallory" / "node.crt", world.folder / "mallory" / "node.key"
    )
    context.set_alpn_protocols(["h2"])
    settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04" + bytes(4)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            plain = socket.create_connection(("127.0.0.1", world.server.port))
            taken = stack.enter_context(
                context.wrap_socket(plain, server_hostname=host_name("alice"))
            )
            taken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
            taken.sendall(b"\x00\xff\xff\x01\x04\x00\x00\x00\x01" + bytes(100))  # half of a header
        good = world.connect("bob")
        assert whole(good) == DATA
        good.close()


# Certificates ---------------------------------------------------------------------------------


def test_without_a_certificate_of_the_federation_nobody_is_heard(world: World) -> None:
    ours = world.load("alice", "alice")
    foreign = world.load("foreign", "bob")
    expired = world.load("expired", "bob", LONG_AGO)
    shown: tuple[dict[str, Any], ...] = (
        {},
        {"cert_chain": foreign.certificate, "private_key": foreign.key},
        {"cert_chain": expired.certificate, "private_key": expired.key},
        {"cert_chain": ours.certificate, "private_key": foreign.key},
    )
    for options in shown:
        tool = flight.FlightClient(
            world.endpoint.uri,
            tls_root_certs=ours.authority,
            override_hostname=host_name("alice"),
            **options,
        )
        with pytest.raises(pa.ArrowException):
            tool.do_get(flight.Ticket(SKILLS), flight.FlightCallOptions(timeout=3.0)).read_all()
        tool.close()
    plain = Connection(Endpoint("127.0.0.1", world.server.port))
    with pytest.raises(PeerError):
        plain.health()
    plain.close()


@pytest.mark.parametrize("shown", ["foreign", "expired", "another node's", "none"])
def test_a_peer_without_the_right_certificate_is_not_believed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    monkeypatch.setattr(connections, "CALL_SECONDS", 1.0)
    made = {
        "foreign": lambda: world.load("foreign", "bob"),
        "expired": lambda: world.load("expired", "bob", LONG_AGO),
        "another node's": lambda: world.load("mallory", "mallory"),
        "none": lambda: None,
    }[shown]()
    options: dict[str, Any] = {}
    if made is not None:
        options["tls_certificates"] = [(made.certificate, made.key)]
    client = client_of(tmp_path, credentials=world.load("alice", "alice"))
    with staged(node="bob", **options) as stage:
        stage.offer(CARD, DATA)
        with pytest.raises(PeerError) as refused:
            client.add_peer("bob", Endpoint("127.0.0.1", stage.port, True))
        assert isinstance(refused.value, PeerUnreachable)
        assert stage.questions == 0, "it was not even asked"
    assert client.list_remote_skills() == ()
    client.close()


def test_a_member_cannot_be_another_member(world: World, tmp_path: Path) -> None:
    """Mallory has a certificate of the federation, and says that he is bob."""
    shown = world.load("mallory", "mallory")
    client = client_of(tmp_path, credentials=world.load("alice", "alice"))
    certificates = [(shown.certificate, shown.key)]
    with staged(node="bob", key=AUTHOR.public, tls_certificates=certificates) as stage:
        endpoint = Endpoint("127.0.0.1", stage.port, True)
        assert client.introduce(endpoint).node == "bob", "a member it is"
        with pytest.raises(PeerUnreachable):
            client.add_peer("bob", endpoint)
    client.close()


def test_the_time_that_a_stranger_costs_is_bounded(world: World) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", world.server.port)) as taken:
        taken.sendall(b"\x16\x03\x01")
        good = world.connect("bob")
        assert good.health().node == "alice"
        good.close()
    assert time.monotonic() - started < 10.0
