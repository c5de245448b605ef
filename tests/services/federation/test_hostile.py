"""A peer that is an adversary: what it says costs little, leaves nothing, and stops nobody."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import flight

from services.federation import client as clients
from services.federation import connection as connections
from services.federation.client import LoRAFlightClient
from services.federation.download import Pace
from services.federation.errors import CardRefused, FederationError, PeerError
from services.federation.protocol import MAX_FRAME, NOTHING, Endpoint
from tests.services.federation.nodes import (
    AUTHOR,
    Stage,
    client_of,
    frames,
    left_over,
    noise,
    pieces,
    signed,
    staged,
    threads,
    wait,
)

DATA = noise(700_000, 1)
CARD = signed(DATA)
GOOD = noise(300_000, 2)
GOOD_CARD = signed(GOOD, "good")
GROWTH = 160 << 20
"""Bytes by which both ends together may grow, of which the sender has most."""


@pytest.fixture(scope="module")
def stages() -> Iterator[tuple[Stage, Stage]]:
    with staged(node="bad") as bad, staged(node="good") as good:
        yield bad, good


@pytest.fixture
def bad(stages: tuple[Stage, Stage]) -> Stage:
    stages[0].reset()
    stages[0].offer(CARD, DATA)
    return stages[0]


@pytest.fixture
def client(
    stages: tuple[Stage, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoRAFlightClient]:
    """After each attack: nothing is left, no thread for long, and a good peer serves on."""
    monkeypatch.setattr(connections, "CALL_SECONDS", 0.6)
    monkeypatch.setattr(clients, "PAUSE", 0.001)
    good = stages[1]
    good.reset()
    good.offer(GOOD_CARD, GOOD)
    client = client_of(tmp_path, pace=Pace(seconds=2.0, least_rate=10_000_000, stall=0.4))
    client.add_peer("good", good.endpoint)
    before = psutil.Process().memory_info().rss
    yield client
    assert left_over(client) == []
    wait(lambda: psutil.Process().memory_info().rss - before < GROWTH, "it is small again", 3.0)
    client.list_remote_skills("good")
    assert client.fetch_skill("good").path.read_bytes() == GOOD
    client.close()
    wait(lambda: not threads("fetch"), "no thread is left", 5.0)


def batches(batch: Any, times: int = 1, metadata: bytes | None = b"x" * 5000) -> Any:
    """An answer of record batches, where frames belong."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    item = batch if metadata is None else (batch, pa.py_buffer(metadata))
    return flight.GeneratorStream(batch.schema, itertools.repeat(item, times), options=options)


def column(size: int) -> Any:
    return pa.record_batch([pa.array(np.zeros(size, np.uint8))], names=["data"])


def dripping(data: bytes, size: int, seconds: float) -> Any:
    def parts() -> Iterator[bytes]:
        for part in pieces(data, size):
            yield part
            time.sleep(seconds)

    return frames(parts())


def silent_after(*parts: bytes) -> Any:
    def said() -> Iterator[bytes]:
        yield from parts
        time.sleep(3.0)

    return frames(said())


def forever(part: bytes) -> Any:
    return frames(itertools.repeat(part))


def failing(words: str) -> Any:
    raise flight.FlightServerError(words)


FILES: dict[str, Callable[[bytes, int], Any]] = {
    "truncated": lambda data, start: frames(pieces(data[start:-1])),
    "flipped": lambda data, start: frames(pieces(data[start:-1] + bytes([data[-1] ^ 1]))),
    "longer": lambda data, start: frames(pieces(data[start:] + b"x" * 5000)),
    "endless": lambda data, start: forever(bytes(500_000)),
    "of another card": lambda data, start: frames(pieces(GOOD[start:])),
    "frames of one byte": lambda data, start: frames(pieces(data[start:], 1)),
    "a frame beyond the limit": lambda data, start: frames([bytes(MAX_FRAME + 5000)]),
    "a very large frame": lambda data, start: frames([bytes(32 << 20)]),
    "empty frames for ever": lambda data, start: forever(b""),
    "empty batches for ever": lambda data, start: batches(NOTHING, 10**9, None),
    "a frame, then nothing": lambda data, start: silent_after(data[start : start + 100_000]),
    "nothing": lambda data, start: silent_after(),
    "a byte at a time": lambda data, start: dripping(data[start:], 1, 1.0),
    "just frames enough": lambda data, start: dripping(data[start:], 4096, 0.2),
    "a column": lambda data, start: batches(column(100)),
    "a compressed bomb": lambda data, start: batches(column(256 << 20)),
    "many compressed bombs": lambda data, start: batches(column(8 << 20), 100),
    "a traceback": lambda data, start: failing('Traceback:\n  File "/etc/passwd"\n\x1b[2J\x07'),
    "an error": lambda data, start: 1 / 0,
}


@pytest.mark.parametrize("file", FILES)
def test_no_file_that_is_sent_does_harm(bad: Stage, client: LoRAFlightClient, file: str) -> None:
    client.add_peer("bad", bad.endpoint)
    client.list_remote_skills("bad")
    bad.file = FILES[file]
    started = time.monotonic()
    with pytest.raises((PeerError, CardRefused)) as refused:
        client.fetch_skill("banking")
    assert time.monotonic() - started < 8.0
    assert str(refused.value).isprintable(), "an error is one line without controls"
    assert len(str(refused.value)) < 400


NESTED = b"[" * 100_000 + b"]" * 100_000


def told(stage: Stage, **fields: Any) -> bytes:
    """How it is, with what the types here would not let it say."""
    return json.dumps(json.loads(stage.says()) | fields).encode()


HEALTHS: dict[str, Callable[[Stage], Any]] = {
    "no frame": lambda stage: frames([]),
    "no JSON": lambda stage: frames([b"\xff\x00{"]),
    "deep": lambda stage: frames([b'{"node":' + NESTED + b"}"]),
    "huge": lambda stage: frames([bytes(32 << 20)]),
    "endless": lambda stage: forever(bytes(1000)),
    "nothing": lambda stage: silent_after(),
    "columns": lambda stage: batches(column(10)),
    "a bomb": lambda stage: batches(column(256 << 20)),
    "a path": lambda stage: frames([told(stage, node="../../etc/passwd")]),
    "a line break": lambda stage: frames([told(stage, node="bad\n\x1b[31mERROR")]),
    "a long name": lambda stage: frames([told(stage, node="x" * 10**6)]),
    "a long revision": lambda stage: frames([told(stage, revision="x" * 10**6)]),
    "a large number": lambda stage: frames([told(stage, cards=10**3000)]),
    "a negative number": lambda stage: frames([told(stage, cards=-1)]),
    "another version": lambda stage: frames([told(stage, version=2)]),
    "an error": lambda stage: failing("\x1b[2J\r\nFAKE LOG LINE"),
}


@pytest.mark.parametrize("health", HEALTHS)
def test_nothing_that_a_peer_says_of_itself_does_harm(
    bad: Stage, client: LoRAFlightClient, health: str
) -> None:
    bad.health = lambda: HEALTHS[health](bad)
    with pytest.raises(FederationError) as refused:
        client.add_peer("bad", bad.endpoint)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def card_as(**fields: Any) -> bytes:
    words = msgspec.to_builtins(CARD)
    return json.dumps(words | fields).encode()


SKILLS: dict[str, Callable[[], Any]] = {
    "no JSON": lambda: frames([b"{", b"\x00"]),
    "deep": lambda: frames([NESTED]),
    "a path for a digest": lambda: frames([card_as(digest="sha256:../../../../etc/passwd")]),
    "a path for a name": lambda: frames([card_as(name="../../node")]),
    "a line break in a name": lambda: frames([card_as(name="banking\n")]),
    "numbers beyond 64 bits": lambda: frames([card_as(bytes=10**30)]),
    "an unsigned number beyond 64 bits": lambda: frames([card_as(rank=10**30)]),
    "infinity": lambda: frames([card_as(alpha=1e999)]),
    "no fields": lambda: frames([b"{}"]),
    "half": lambda: frames([card_as()[:-20]]),
    "megabytes of each": lambda: frames(
        card_as(digest=f"sha256:{number:064x}", description="x" * 1_900_000)
        for number in range(10**6)
    ),
    "nothing": lambda: silent_after(),
    "a card, then nothing": lambda: silent_after(card_as()),
    "columns": lambda: batches(column(10)),
    "empty frames for ever": lambda: forever(b""),
}


@pytest.mark.parametrize("skills", SKILLS)
def test_no_list_of_cards_does_harm(
    bad: Stage, client: LoRAFlightClient, skills: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.add_peer("bad", bad.endpoint)
    monkeypatch.setattr(connections, "CALL_SECONDS", 0.1)  # for each 64 of 256 cards
    bad.skills = SKILLS[skills]
    with pytest.raises(PeerError) as refused:
        client.list_remote_skills("bad")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400
    assert [remote.peer for remote in client.list_remote_skills()] == ["good"]


def test_of_a_million_cards_the_first_are_heeded(bad: Stage, client: LoRAFlightClient) -> None:
    sent = [0]

    def endless() -> Iterator[bytes]:
        for number in range(10**6):
            sent[0] = number
            yield card_as(digest=f"sha256:{number:064x}")

    client.add_peer("bad", bad.endpoint)
    bad.skills = lambda: frames(endless())
    assert len(client.list_remote_skills("bad")) == 256
    assert sent[0] < 50_000, "so many are under way, and no more are taken"


def test_one_card_a_million_times_is_one_card(bad: Stage, client: LoRAFlightClient) -> None:
    client.add_peer("bad", bad.endpoint)
    bad.skills = lambda: forever(card_as())
    assert len(client.list_remote_skills("bad")) == 1


@contextlib.contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """Something that listens, and is no Flight server."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = listener.accept()
                    stack.callback(taken.close)
                    with contextlib.suppress(OSError):
                        answer(taken)

        threading.Thread(target=accept, daemon=True).start()
        yield Endpoint("127.0.0.1", listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


HTTP2: bytes = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # an empty SETTINGS frame

SOCKETS: dict[str, Callable[[socket.socket], None]] = {
    "silence before the handshake": lambda taken: None,
    "silence after the handshake": lambda taken: taken.sendall(HTTP2),
    "a closed door": lambda taken: taken.close(),
    "another protocol": lambda taken: taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n" * 1000),
    "noise": lambda taken: taken.sendall(noise(100_000)),
    "a huge HTTP/2 frame": lambda taken: taken.sendall(HTTP2 + b"\xff\xff\xff" + bytes(10**6)),
}


@pytest.mark.parametrize("answer", SOCKETS)
def test_what_is_no_flight_server_is_given_up(client: LoRAFlightClient, answer: str) -> None:
    with raw(SOCKETS[answer]) as endpoint:
        started = time.monotonic()
        with pytest.raises(PeerError) as refused:
            client.add_peer("bad", endpoint)
        assert time.monotonic() - started < 5.0
        assert str(refused.value).isprintable()


def test_a_replayed_signature_brings_no_other_bytes(bad: Stage, client: LoRAFlightClient) -> None:
    """A true card of the author's, whose words and file a peer has changed."""
    client.add_peer("bad", bad.endpoint)
    bad.file = lambda data, start: frames(pieces(noise(700_000, 66)[start:]))
    client.list_remote_skills("bad")
    with pytest.raises(CardRefused, match="not those of its digest"):
        client.fetch_skill("banking")
    evil = noise(1000, 67)
    digest = signed(evil).digest
    for fields in (
        {"digest": digest},
        {"digest": digest, "bytes": 1000},
        {"name": "other"},
        {"version": 9},
        {"created": "2027-01-01T00:00:00Z"},
        {"signer": AUTHOR.public + "A"},
        {"signer": AUTHOR.public.lower()},
        {"signature": GOOD_CARD.signature},
        {"signature": ""},
        {"signature": "\n" + str(CARD.signature)},
        {"created": CARD.created + "\n"},
    ):
        bad.skills = lambda fields=fields: frames([card_as(**fields)])
        (remote,) = client.list_remote_skills("bad")
        error = client.refusal(remote.card)
        assert isinstance(error, CardRefused), fields
        assert str(error).isprintable()
        asked = len(bad.asked)
        with pytest.raises(CardRefused):
            client.fetch_skill(f"bad/{remote.card.name}")
        assert len(bad.asked) == asked
