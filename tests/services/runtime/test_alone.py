"""Of two processes that would write in one folder of the state, the second leaves, and says why."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from structlog.testing import CapturingLogger

from bus import MemoryBus, connect
from bus.broker import Broker
from schemas import FleetHeartbeat
from services.errors import DuplicateError
from services.factory.service import SkillFactory
from services.runtime.alone import alone
from services.runtime.main import serve
from services.runtime.service import Context, Service
from services.runtime.settings import FleetSettings, Settings
from services.runtime.state import StateFolder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def log() -> CapturingLogger:
    return CapturingLogger()


async def test_the_second_is_told_who_is_there(tmp_path: Path, log: CapturingLogger) -> None:
    async with alone(tmp_path, patience=0, log=log):
        with pytest.raises(
            DuplicateError, match=f"process {os.getpid()} of .* writes in {tmp_path}"
        ):
            async with alone(tmp_path, patience=0, log=log):
                pass
    async with alone(tmp_path, patience=0, log=log):
        pass


async def test_one_that_is_about_to_end_is_waited_for(tmp_path: Path, log: CapturingLogger) -> None:
    taken = asyncio.Event()

    async def second() -> None:
        async with alone(tmp_path, patience=60, log=log):
            taken.set()

    async with alone(tmp_path, patience=0, log=log):
        waiting = asyncio.create_task(second())
        while not log.calls:
            await asyncio.sleep(0.01)
        assert not taken.is_set()
    await asyncio.wait_for(waiting, 30)
    assert [call.args for call in log.calls] == [("waits for a folder",)]


@pytest.mark.parametrize("where", ["open", "lock"])
async def test_where_nothing_can_be_locked_nobody_is_held_up(
    tmp_path: Path, log: CapturingLogger, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if where == "open":
        (tmp_path / "lock").mkdir()
    else:
        monkeypatch.setattr(fcntl, "flock", fails)
    async with alone(tmp_path, patience=0, log=log), alone(tmp_path, patience=0, log=log):
        assert [call.args for call in log.calls] == [("folder not locked",)] * 2


async def test_two_processes_do_not_share_a_folder_though_they_share_a_bus(
    short_path: Path,
) -> None:
    (short_path / "settings.toml").write_text("[fleet]\nstop_grace = 0.0\n")

    async def start(instance: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.services.runtime.clumsy", "keeps a store"),
            *("--state", str(short_path), "--config", str(short_path / "settings.toml")),
            *("--instance", instance),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )

    url = f"ipc://{short_path / 'bus'}"
    async with (
        Broker(url, short_path),
        await connect(url, source="/test/1") as bus,
        bus.watch(FleetHeartbeat) as beats,
    ):

        async def ready(instance: str) -> None:
            while True:
                beat = (await beats.get(timeout=30)).data
                if (beat.instance, beat.state) == (instance, "ready"):
                    return

        first = await start("attic-1")
        await ready("attic-1")
        second = await start("cellar-1")
        _, err = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 2
        assert f"clumsy: process {first.pid} of".encode() in err
        assert f"writes in {short_path / 'clumsy'} already".encode() in err
        first.kill()
        await first.communicate()
        third = await start("cellar-1")
        await ready("cellar-1")
        third.terminate()
        await asyncio.wait_for(third.communicate(), 30)
        assert third.returncode == 0


class Single(Service):
    name: ClassVar[str] = "keeper"
    single: ClassVar[bool] = True


class Keeper(Service):
    name: ClassVar[str] = "keeper"
    keeps: ClassVar[bool] = True


@pytest.mark.parametrize("kind", [Single, Keeper, SkillFactory], ids=lambda kind: kind.__name__)
async def test_nothing_is_set_up_where_another_writes(
    tmp_path: Path, log: CapturingLogger, kind: type[Service]
) -> None:
    state = StateFolder(tmp_path)
    settings = Settings(fleet=FleetSettings(stop_grace=0.0))
    async with (
        MemoryBus(tmp_path.name, source=f"/{kind.name}/1") as bus,
        alone(state.of(kind.name), patience=0, log=log),
    ):
        with pytest.raises(DuplicateError, match="and two would spoil what is there"):
            await serve(kind, Context(settings, bus, state))
    assert [path.name for path in state.of(kind.name).iterdir()] == ["lock"]
