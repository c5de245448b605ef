"""What runs on which machine, and how it is called there."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from schemas import Event, FleetHeartbeat
from services.errors import SettingsError
from services.fleet.beats import Beat
from services.fleet.bus_beats import _translated
from services.fleet.plan import SERVICES, carries, plan
from services.runtime.namesakes import host_name
from services.runtime.settings import Named, Settings, load_settings

TCP = "tcp://broker:5550"


def parts(bus: str = TCP, **fleet: Any) -> list[str]:
    settings = load_settings(None, {f"fleet.{key}": value for key, value in fleet.items()})
    found = plan(settings, state=Path("/s"), bus=bus, config=Path("/s/c.toml"))
    for part in found[1:]:
        assert part.command[part.command.index("--instance") + 1] == part.instance
    return [part.name for part in found]


def test_every_service_can_be_named() -> None:
    assert set(typing.get_args(Named)) == {"broker", *(role.service for role in SERVICES)}


def test_a_second_machine_runs_what_it_is_told_to_under_its_own_name() -> None:
    found = parts(services=["encoder", "router"], host="attic", workers=2, routers=2)
    assert found == ["router-attic-1", "router-attic-2", "encoder-attic-1", "encoder-attic-2"]


def test_without_a_name_everything_is_called_as_before() -> None:
    found = parts(workers=1)
    assert found[0] == "broker-1"
    assert {"router-1", "encoder-1", "factory-1"} <= set(found)
    assert len(found) == len(SERVICES) + 1


@pytest.mark.parametrize(
    ("bus", "services", "here"),
    [(TCP, (), True), (TCP, ("encoder",), False), ("nats://host:4222", (), False)],
    ids=["all", "encoders", "nats"],
)
def test_who_starts_the_broker(bus: str, services: tuple[str, ...], here: bool) -> None:
    settings = load_settings(None, {"fleet.services": services})
    assert carries(settings, bus) is here


@pytest.mark.parametrize("host", ["Attic", "a/b", "-a", "a-", "", "x" * 33])
def test_a_name_that_would_not_do_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="a-z, 0-9 and dashes"):
        load_settings(None, {"fleet.host": host})


def test_a_service_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fleet.services must be a list"):
        load_settings(None, {"fleet.services": ["encoders"]})
    assert Settings().fleet.runs("encoder")


async def test_a_process_of_another_machine_is_not_mistaken_for_ours() -> None:
    """Both machines may have given the same number to a process."""

    async def said() -> Any:
        for host, state in (("elsewhere", "ready"), (host_name(), "starting"), (None, "draining")):
            beat = FleetHeartbeat(
                service="encoder",
                instance="1",
                pid=7,
                state=state,
                queue=0,
                rss_bytes=1,
                counters={},
                host=host,
            )
            yield Event(data=beat, source="/encoder/1")

    heard = [it async for it in _translated(said())]
    assert heard == [Beat(7, "starting"), Beat(7, "draining")]
