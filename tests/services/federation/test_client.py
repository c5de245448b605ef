"""Fetching: whole and verified or not at all, from whoever has it, on from where it was cut."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pyarrow import flight

from services.federation import client as clients
from services.federation import download as downloads
from services.federation.client import LoRAFlightClient
from services.federation.download import Pace
from services.federation.errors import (
    Altered,
    BadSignature,
    CardRefused,
    FederationError,
    NotOffered,
    Oversized,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
    Untrusted,
    WrongModel,
)
from services.federation.identity import NodeKey
from services.federation.limits import Slots
from services.federation.protocol import Endpoint
from tests.services.federation.nodes import (
    MODEL,
    PACE,
    Stage,
    client_of,
    described,
    frames,
    left_over,
    noise,
    pieces,
    signed,
    staged,
    threads,
    wait,
)

DATA = noise(1_300_000, 1)
CARD = signed(DATA)
FILE = CARD.digest.removeprefix("sha256:") + ".lora.arrow"


@pytest.fixture(scope="module")
def stages() -> Iterator[tuple[Stage, ...]]:
    with staged(node="a") as a, staged(node="b") as b, staged(node="c") as c:
        yield a, b, c


@pytest.fixture(autouse=True)
def fresh(stages: tuple[Stage, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PAUSE", 0.001)
    for stage in stages:
        stage.reset()


def meet(client: LoRAFlightClient, *stages: Stage, card: Any = CARD, data: bytes = DATA) -> None:
    """Let them offer a card, and the client hear of it."""
    for stage in stages:
        stage.offer(card, data)
        client.add_peer(stage.node, stage.endpoint)
    client.list_remote_skills()


def cut_at(place: int) -> Any:
    """A peer whose transfers always end at that byte of the file."""
    return lambda data, start: frames(pieces(data[start:place]))


@examples(max_examples=30)
@given(st.one_of(st.integers(0, len(DATA) - 1), st.sampled_from([1, 4095, 4096, 100_000])))
def test_a_transfer_cut_at_any_byte_leaves_nothing_behind(
    stages: tuple[Stage, ...], tmp_path_factory: pytest.TempPathFactory, place: int
) -> None:
    a = stages[0]
    a.reset()
    folder = tmp_path_factory.mktemp("cut")
    client = client_of(folder)
    meet(client, a)
    a.file = cut_at(place)
    with pytest.raises(PeerError):
        client.fetch_skill("banking")
    assert left_over(client) == []
    a.file = lambda data, start: frames(pieces(data[start:]))
    assert client.fetch_skill("banking").path.read_bytes() == DATA
    assert left_over(client) == [FILE]
    client.close()
    shutil.rmtree(folder)


@examples(max_examples=30)
@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)))
def test_a_transfer_goes_on_where_it_was_cut(
    stages: tuple[Stage, ...],
    tmp_path_factory: pytest.TempPathFactory,
    one: int,
    other: int,
) -> None:
    """From the same peer, then from another; nothing is asked for twice."""
    a, b, _ = stages
    a.reset()
    b.reset()
    folder = tmp_path_factory.mktemp("on")
    client = client_of(folder)
    first, second = sorted((one, other))
    meet(client, a, b)
    ends = iter([first, second, second])
    a.file = lambda data, start: frames(pieces(data[start : next(ends)]))
    # What is too short for a frame is no transfer that goes on, but one that misbehaves.
    tiny = any(0 < length < 4096 for length in (first % 100_000, (second - first) % 100_000))
    fetched = client.fetch_skill("banking", peer="a")
    assert fetched.path.read_bytes() == DATA
    if not tiny and second < len(DATA):
        asked = [offset for _, offset in (*a.asked, *b.asked)]
        assert asked[0] == 0
        assert set(asked) <= {0, first, second}
        assert b.asked == [(CARD.digest, second if first else 0)]
        assert fetched.peer == "b"
    assert left_over(client) == [FILE]
    client.close()
    shutil.rmtree(folder)


def test_the_fastest_is_asked_first(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    a, b, c = stages
    client = client_of(tmp_path)

    def slowly(seconds: float) -> Any:
        def file(data: bytes, start: int) -> Any:
            time.sleep(seconds)
            return frames(pieces(data[start:]))

        return file

    a.file, b.file, c.file = slowly(0.25), slowly(0.0), slowly(0.6)
    for number, stage in enumerate(stages):
        own = noise(700_000, 50 + number)
        meet(client, stage, card=signed(own, f"own-{stage.node}"), data=own)
        client.fetch_skill(f"{stage.node}/own-{stage.node}")
    meet(client, *stages)
    for stage in stages:
        stage.asked.clear()
        stage.file = lambda data, start: frames(())
    with pytest.raises(PeerError):
        client.fetch_skill("banking")
    order: list[str] = []
    for stage in stages:
        stage.file = lambda data, start, who=stage.node: (order.append(who), frames(()))[1]
        client._peers[stage.node].failed = -1e9
    with pytest.raises(PeerError):
        client.fetch_skill(CARD.digest)
    assert order == ["b", "a", "c"]
    client.close()


def test_who_failed_lately_is_asked_last(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    a, b, _ = stages
    client = client_of(tmp_path)
    meet(client, a, b)
    a.file = cut_at(0)
    assert client.fetch_skill("a/banking").peer == "b"
    other = noise(5000, 77)
    card = signed(other, "other")
    meet(client, a, b, card=card, data=other)
    a.asked.clear()
    assert client.fetch_skill("other").peer == "b"
    assert a.asked == []
    client.close()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("place", [0, 650_000, len(DATA) - 1])
def test_a_liar_among_several_is_found_out(
    stages: tuple[Stage, ...], tmp_path: Path, place: int
) -> None:
    a, b, _ = stages
    client = client_of(tmp_path)
    meet(client, a, b)
    a.file = lambda data, start: frames(pieces(flipped(data, place)[start:]))
    fetched = client.fetch_skill("a/banking")
    assert (fetched.peer, fetched.path.read_bytes()) == ("b", DATA)
    fetched.path.unlink()
    b.file = a.file
    with pytest.raises(Altered, match="its bytes are not those of its digest"):
        client.fetch_skill("banking")
    assert left_over(client) == []
    client.close()


def test_an_honest_peer_is_not_blamed_for_what_a_liar_began(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    a, b, _ = stages
    client = client_of(tmp_path)
    meet(client, a, b)
    a.file = lambda data, start: frames(pieces(noise(900_000, 4)[start:]))
    fetched = client.fetch_skill("a/banking")
    assert (fetched.peer, fetched.path.read_bytes()) == ("b", DATA)
    assert [offset for _, offset in b.asked] == [900_000, 0]
    client.close()


def test_what_one_peer_gave_is_kept_where_the_next_has_it_no_more(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    a, b, c = stages
    client = client_of(tmp_path)
    meet(client, a, b, c)
    a.file = cut_at(700_000)

    def gone(data: bytes, start: int) -> Any:
        raise flight.FlightServerError("that skill is not on offer", b"not_offered")

    b.file = gone
    client._peers["b"].latency, client._peers["c"].latency = 0.0, 1.0
    assert client.fetch_skill("a/banking").peer == "c"
    assert b.asked == [(CARD.digest, 700_000)]
    assert c.asked == [(CARD.digest, 700_000)]
    client.close()


@pytest.mark.parametrize(
    ("card", "error"),
    [
        (described(DATA), Untrusted),
        (signed(DATA, key=NodeKey.generate()), Untrusted),
        (
            signed(DATA, base_model=described(DATA).base_model.__class__(id="x", sha256="0" * 64)),
            WrongModel,
        ),
        (signed(DATA, bytes=1 << 40), Oversized),
        (signed(DATA, bytes=1), Altered),
    ],
)
def test_what_is_not_believed_is_not_asked_for(
    stages: tuple[Stage, ...], tmp_path: Path, card: Any, error: type[CardRefused]
) -> None:
    a = stages[0]
    client = client_of(tmp_path)
    meet(client, a, card=card)
    if error is Altered:  # of a size that only the transfer can prove wrong
        with pytest.raises(PeerMisbehaved, match="more than the 1 bytes it promised"):
            client.fetch_skill("banking")
    else:
        assert isinstance(client.refusal(card), error)
        with pytest.raises(error):
            client.fetch_skill("banking")
        assert a.asked == []
    assert left_over(client) == []
    client.close()


def test_a_card_that_is_here_is_not_fetched_again(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    a = stages[0]
    client = client_of(tmp_path)
    meet(client, a)
    first = client.fetch_skill("a/banking@1")
    again = client.fetch_skill(CARD.digest)
    assert (first.peer, again.peer, again.path) == ("a", "", first.path)
    assert len(a.asked) == 1
    for text in ("nothing", "banking@2", "b/banking", "sha256:" + "0" * 64, "a/", "/", ""):
        with pytest.raises(NotOffered):
            client.fetch_skill(text)
    client.close()


def test_several_who_wish_for_one_card_have_it(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    client = client_of(tmp_path, slots=Slots(8, 8))
    meet(client, *stages)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: client.fetch_skill("banking"), range(4)))
    assert {fetched.path.read_bytes() for fetched in found} == {DATA}
    assert left_over(client) == [FILE]
    client.close()


def test_who_is_busy_is_said_to_be(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    a = stages[0]
    client = client_of(tmp_path, slots=Slots(0, 0))
    meet(client, a)
    with pytest.raises(PeerBusy):
        client.fetch_skill("banking")
    assert left_over(client) == []
    client.close()


@pytest.mark.parametrize("harm", ["full", "no folder", "no name"])
def test_a_disk_that_takes_no_more_is_said_to(
    stages: tuple[Stage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    client = client_of(tmp_path)
    meet(client, stages[0])

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if harm == "full":
        monkeypatch.setattr(downloads.os, "write", full)
    elif harm == "no folder":
        client.incoming.rmdir()
    else:  # a folder lies where the card should, and came there after the transfer began
        target = client.path(CARD.digest)
        monkeypatch.setattr(Path, "exists", lambda self: self != target and os.path.exists(self))
        target.mkdir()
        (target / "x").mkdir()
    with pytest.raises(FederationError, match="the card cannot be written"):
        client.fetch_skill("banking")
    monkeypatch.undo()
    assert left_over(client) == []
    client.close()


def test_a_peer_that_is_forgotten_gives_no_more(stages: tuple[Stage, ...], tmp_path: Path) -> None:
    a = stages[0]
    client = client_of(tmp_path)
    meet(client, a)
    going, release = threading.Event(), threading.Event()

    def hanging(data: bytes, start: int) -> Any:
        def parts() -> Iterator[bytes]:
            yield data[:100_000]
            going.set()
            release.wait(10)

        return frames(parts())

    a.file = hanging
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(client.fetch_skill, "banking")
        assert going.wait(5)
        before = time.monotonic()
        client.close()
        with pytest.raises((PeerError, NotOffered)):
            fetching.result(5)
        assert time.monotonic() - before < PACE.stall, "it did not wait for the peer to be slow"
    assert left_over(client) == []
    wait(lambda: not threads("fetch"), "no thread is left")
    release.set()
    with pytest.raises(PeerUnreachable):
        client.add_peer("a", a.endpoint)


class Ready:
    """A connection from which frames come, on a clock of the test's own."""

    def __init__(self, size: int = 100_000, seconds: float = 0.0) -> None:
        self._size, self._seconds, self.now = size, seconds, 0.0

    def open(self, digest: str, offset: int, seconds: float) -> Any:
        return self

    def __iter__(self) -> Any:
        for part in pieces(DATA, self._size):
            self.now += self._seconds
            yield pa.py_buffer(part)

    def cancel(self) -> None:
        pass


def test_our_own_limit_is_not_the_peers_slowness(tmp_path: Path) -> None:
    pauses = iter([0.3, 0.3])

    class Slow:
        def take(self, amount: int) -> float:
            return next(pauses, 0.0)

    strict = Pace(seconds=20.0, least_rate=1_000_000, stall=0.2)
    download = downloads.Download(CARD, tmp_path / "part", pace=strict, ingress=Slow())  # type: ignore[arg-type]
    download.attempt(Ready())  # type: ignore[arg-type]
    download.finish(tmp_path / "card")
    assert (tmp_path / "card").read_bytes() == DATA


@pytest.mark.parametrize(
    ("size", "rate", "enough"),
    [(1 << 19, 40_000, True), (100_000, 17_000, True), (100_000, 9_000, False), (4096, 400, False)],
)
def test_a_slow_line_is_slow_only_below_the_least_rate(size: int, rate: int, enough: bool) -> None:
    """Frames of half a megabyte come over it seconds apart, and are no silence."""
    pacer = downloads.Pacer(Pace(seconds=1e6, least_rate=16 << 10, stall=10.0), 0.0, 0)

    def go() -> None:
        for second in range(600):
            pacer.check(second, int(second * rate / size) * size)

    if enough:
        go()
    else:
        with pytest.raises(PeerMisbehaved, match="too slow"):
            go()


@pytest.mark.parametrize("pausing", [True, False])
def test_a_line_that_waits_for_this_node_is_not_slow(pausing: bool) -> None:
    pacer = downloads.Pacer(Pace(seconds=1e6, least_rate=16 << 10, stall=10.0), 0.0, 0)

    def go() -> None:
        for second in range(600):
            pacer.check(second, 0, 0.99 * second if pausing else 0.0)

    if pausing:
        go()
    else:
        with pytest.raises(PeerMisbehaved, match="too slow"):
            go()


def test_what_takes_too_long_in_all_is_given_up() -> None:
    pacer = downloads.Pacer(Pace(seconds=20.0), 5.0, 0)

    pacer.check(25.0, 1 << 30)
    with pytest.raises(PeerUnreachable, match="within 20 s"):
        pacer.check(25.1, 1 << 31)


def test_what_was_under_way_when_a_process_died_is_cleared_away(tmp_path: Path) -> None:
    incoming = tmp_path / "cache" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "x.1.part").write_bytes(b"half")
    client = client_of(tmp_path)
    assert left_over(client) == []


def test_a_peer_without_certificates_or_with_a_useless_address_is_refused(tmp_path: Path) -> None:
    client = client_of(tmp_path, model=MODEL)
    for endpoint in (Endpoint("127.0.0.1", 9, tls=True), Endpoint("fe80::1%eth0", 9)):
        with pytest.raises(PeerUnreachable):
            client.add_peer("x", endpoint)
    with pytest.raises(PeerUnreachable, match="no connection"):
        client.add_peer("x", Endpoint("127.0.0.1", 9))
    assert client.list_remote_skills() == ()


def test_a_forged_signature_is_refused_before_a_byte_comes(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    a = stages[0]
    client = client_of(tmp_path)
    other = noise(5000, 8)
    forged = described(other, signer=CARD.signer, signature=CARD.signature)
    meet(client, a, card=forged, data=other)
    with pytest.raises(BadSignature):
        client.fetch_skill("banking")
    assert a.asked == []
    client.close()
