"""The supervisor joined to a real broker."""

import asyncio
import stat
from pathlib import Path

import pytest

from bus import connect
from bus.access.keys import read_admissions
from bus.broker import Broker
from bus.security import make_client_keys
from bus.settings import BrokerSettings
from schemas import Event, FleetHeartbeat, FleetStop
from services.errors import PreflightError
from services.fleet.beats import Beat, StopOrder
from services.fleet.bus_beats import OWN, beats_of, prepare
from services.runtime.fleet_view import FleetView
from tests.bus.kit import free_port


async def test_heartbeats_and_orders_arrive_over_the_bus(short_path: Path) -> None:
    url = f"ipc://{short_path / 'bus'}"
    heard: asyncio.Queue[Beat | StopOrder] = asyncio.Queue()

    async def listen() -> None:
        async with beats_of(url, prepare(url, short_path))() as beats:
            async for said in beats:
                heard.put_nowait(said)

    async with Broker(url, short_path, BrokerSettings(heartbeat_seconds=0.1)):
        listening = asyncio.create_task(listen())
        broker = await asyncio.wait_for(heard.get(), 20)
        async with await connect(url, source="/router/1") as bus:
            beat = FleetHeartbeat(
                service="router",
                instance="1",
                pid=42,
                state="draining",
                queue=0,
                rss_bytes=0,
                counters={},
            )
            for data in (beat, FleetStop(service="router")):
                await bus.publish(Event(data=data, source=bus.source))
            others = [await asyncio.wait_for(heard.get(), 20) for _ in range(2)]
            while not {type(said) for said in others} >= {StopOrder}:
                others.append(await asyncio.wait_for(heard.get(), 20))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    assert isinstance(broker, Beat)
    assert broker.state == "ready"
    assert Beat(42, "draining") in others
    assert StopOrder("router") in others


async def test_a_bus_that_nobody_serves_is_a_connection_error(short_path: Path) -> None:
    listen = beats_of(f"memory-of://{short_path}", {})
    with pytest.raises(ConnectionError):
        async with listen():
            pass


def test_a_socket_folder_that_others_may_enter_is_refused(short_path: Path) -> None:
    short_path.chmod(0o755)
    with pytest.raises(PreflightError, match=r"cannot be prepared.*0755"):
        prepare(f"ipc://{short_path}", short_path)


def test_over_tcp_the_fleet_makes_its_own_keys_once(short_path: Path) -> None:
    first = prepare("tcp://127.0.0.1:5550", short_path)
    before = {path: path.read_text() for path in Path(first["CONSONANCE_KEY"]).glob("*.key_secret")}

    again = prepare("tcp://127.0.0.1:5550", short_path)

    assert again == first
    assert {path: path.read_text() for path in before} == before
    assert {path.stem for path in before} == {"broker", *OWN}
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o600}
    admitted = read_admissions(short_path / "keys" / "clients")
    assert {name: one.role for name, one in admitted.items()} == OWN
    assert all(one.sources == (f"/{name}/",) for name, one in admitted.items())


@pytest.mark.parametrize("moved", [True, False], ids=["pair-moved", "pair-here"])
def test_a_clients_key_that_bears_a_services_name_is_not_taken_for_the_services(
    short_path: Path, moved: bool
) -> None:
    pair = make_client_keys(short_path / "keys", "router")
    if moved:
        pair.unlink()
    with pytest.raises(PreflightError, match=r"router is the fleet's own"):
        prepare("tcp://127.0.0.1:5550", short_path)


async def test_over_tcp_an_observer_sees_how_the_fleet_does(short_path: Path) -> None:
    """Its key hears no texts: what is learned is counted by heartbeats all the same."""
    url = f"tcp://127.0.0.1:{free_port()}"
    pair = make_client_keys(short_path / "keys", "wall", role="observer")
    async with Broker(url, short_path):
        server = short_path / "keys" / "broker.key"
        bus = await connect(url, source="/wall/1", key=pair, server_key=server)
        async with bus, FleetView(bus) as view:
            assert view.heads() == {}
