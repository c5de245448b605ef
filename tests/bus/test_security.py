"""tcp with CURVE: who is on the list comes in, nobody else."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq

import bus
from bus.__main__ import main
from bus.broker import Broker
from bus.security import make_broker_keys, make_client_keys, read_pair, read_public
from tests.bus.kit import eventually, feedback, free_port, short_folder


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def url(state: Path) -> AsyncIterator[str]:
    place = f"tcp://127.0.0.1:{free_port()}"
    async with Broker(place, state):
        yield place


async def test_an_allowed_key_works_and_a_removed_one_does_not(url: str, state: Path) -> None:
    keys = state / "keys"
    pair = make_client_keys(keys, "laptop")
    server = keys / "broker.key"
    async with await bus.connect(
        url, source="/laptop/1", key=str(pair), server_key=str(server)
    ) as one:
        assert await one.publish(feedback(1, source="/laptop/1")) == (1,)
    (keys / "clients" / "laptop.key").unlink()
    with pytest.raises(bus.NotPermitted, match="does not admit"):
        await bus.connect(url, source="/laptop/1", patience=5, key=pair, server_key=server)


async def test_an_unknown_key_is_refused(url: str, state: Path) -> None:
    stranger = make_client_keys(state / "stranger", "stranger")
    server = state / "keys" / "broker.key"
    with pytest.raises(bus.NotPermitted):
        await bus.connect(url, source="/laptop/1", patience=5, key=stranger, server_key=server)


async def test_no_key_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSONANCE_KEY", raising=False)
    with pytest.raises(bus.InvalidKey, match="CONSONANCE_KEY"):
        await bus.connect(url, source="/laptop/1", patience=1)
    context = zmq.Context()
    bare = context.socket(zmq.DEALER)
    bare.linger = 0
    port = int(url.rpartition(":")[2])
    refused = bare.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)
    bare.connect(f"tcp://127.0.0.1:{port + 2}")
    bare.send_multipart([b"1", b"heads", b"{}"])
    # The broker lives in this loop: its turn comes while the stranger waits.
    await eventually(lambda: bool(refused.poll(0)))
    assert not bare.poll(0)
    context.destroy(linger=0)


async def test_the_wrong_broker_is_not_trusted(url: str, state: Path) -> None:
    pair = make_client_keys(state / "keys", "laptop")
    other = make_broker_keys(state / "other")
    with pytest.raises(bus.BusError):
        await bus.connect(url, source="/laptop/1", patience=1, key=pair, server_key=other)


async def test_keys_are_found_by_their_variables(
    url: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSONANCE_KEY", str(make_client_keys(state / "keys", "laptop")))
    monkeypatch.setenv("CONSONANCE_SERVER_KEY", str(state / "keys" / "broker.key"))
    async with await bus.connect(url, source="/laptop/1") as one:
        assert await one.heads() == {}


def test_the_command_makes_keys_for_their_owner_only(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(state), "keys", "broker"]) == 0
    assert main(["--state", str(state), "keys", "client", "laptop"]) == 0
    public, pair = map(Path, capsys.readouterr().out.split())
    assert read_pair(pair).public == read_public(state / "keys" / "clients" / "laptop.key")
    assert len(read_public(public)) == 40
    for path in (pair, state / "keys" / "broker.key_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["--state", str(state), "keys", "client", "laptop"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["--state", str(state), "keys", "client", "../evil"]) == 1


def test_a_key_open_to_others_is_not_used(state: Path) -> None:
    pair = make_client_keys(state / "keys", "laptop")
    pair.chmod(0o644)
    with pytest.raises(bus.InvalidKey, match="0644"):
        read_pair(pair)
    (state / "nonsense").write_text("hello")
    with pytest.raises(bus.InvalidKey, match="no public key"):
        read_public(state / "nonsense")
