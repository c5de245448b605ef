"""Of two processes that would be the same one, exactly one leaves: who came second."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from bus import connect
from bus.broker import Broker
from bus.memory import MemoryBus
from schemas import Event, FleetHeartbeat, now
from services.errors import DuplicateError
from services.runtime.namesakes import DOUBTFUL, Namesakes
from services.runtime.service import Context, Service
from services.runtime.settings import Settings
from services.runtime.state import StateFolder


class Many(Service):
    name: ClassVar[str] = "many"


class One(Service):
    name: ClassVar[str] = "many"
    single: ClassVar[bool] = True


OURS = "5"
ROOT = Path(__file__).resolve().parents[3]


class Stand:
    """A process in the middle, whose state the test sets."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.state = "starting"
        self.answers = 0
        self.seconds = 0.0
        self.guard = Namesakes(
            service, OURS, lambda: self.state, self._answer, clock=lambda: self.seconds
        )

    async def _answer(self) -> None:
        self.answers += 1

    async def hear(self, state: str, life: str, instance: str = "1", **fields: Any) -> str | None:
        """Why it leaves, once it has heard this; None: it stays."""
        beat = FleetHeartbeat(
            service="many",
            instance=instance,
            pid=4242,
            state=state,
            queue=0,
            rss_bytes=1,
            counters={},
            host="attic",
            life=life,
        )
        event: Event[FleetHeartbeat] = Event(data=beat, source=f"/many/{instance}")
        await self.guard.hear(msgspec.structs.replace(event, **fields))
        failure = self.service.failure
        return str(failure.exception()) if failure.done() else None


@asynccontextmanager
async def stand(folder: Path, kind: type[Service] = Many) -> AsyncIterator[Stand]:
    async with MemoryBus(folder.name, source="/many/1") as bus:
        service = kind(Context(Settings(), bus, StateFolder(folder)))
        yield Stand(service)
        await service.aclose()


@pytest.mark.parametrize(
    ("own", "other", "life", "leaves"),
    [
        ("starting", "ready", "9", True),
        ("starting", "degraded", "1", True),
        ("ready", "starting", "1", False),
        ("starting", "starting", "1", True),
        ("starting", "starting", "9", False),
        ("ready", "ready", "1", True),
        ("ready", "ready", "9", False),
        ("starting", "draining", "1", False),
        ("draining", "ready", "1", False),
    ],
    ids=lambda value: str(value),
)
async def test_who_was_first_stays(
    tmp_path: Path, own: str, other: str, life: str, leaves: bool
) -> None:
    async with stand(tmp_path) as it:
        it.state = own
        why = await it.hear(other, life)
    assert (why is not None) == leaves
    if why is not None:
        assert "many-1 is there already, process 4242 of attic" in why


@pytest.mark.parametrize("kind", [Many, One], ids=["many", "single"])
async def test_another_name_matters_where_there_must_be_one(
    tmp_path: Path, kind: type[Service]
) -> None:
    async with stand(tmp_path, kind) as it:
        why = await it.hear("ready", "1", instance="attic-1")
        if kind is Many:
            assert why is None
            await it.guard.heard()
        else:
            assert "there is one many on this bus already" in (why or "")
            with pytest.raises(DuplicateError):
                await it.guard.heard()


async def test_who_starts_is_answered_at_once_and_only_once(tmp_path: Path) -> None:
    async with stand(tmp_path) as it:
        it.state = "ready"
        for _ in range(3):
            await it.hear("starting", "9", instance="2")
        assert it.answers == 1
        await it.hear("ready", "8", instance="3")
        assert it.answers == 1


async def test_the_last_words_of_the_process_before_are_no_namesake(tmp_path: Path) -> None:
    """However many a server held that stood still, and in whatever order it lets them go."""
    async with stand(tmp_path) as it:
        earlier = now().replace(year=2020)
        for n in (0, 1, 2, 5, 3, 4, 6, 7):
            assert await it.hear("ready", "1", time=earlier + timedelta(seconds=2 * n)) is None
            it.seconds += 0.01
        it.seconds += 10  # another server, too
        for n in range(8, 12):
            assert await it.hear("ready", "1", time=earlier + timedelta(seconds=2 * n)) is None


async def test_who_speaks_on_in_step_lives_though_its_clock_is_slow(tmp_path: Path) -> None:
    async with stand(tmp_path) as it:
        earlier = now().replace(year=2020)
        for n in range(DOUBTFUL):
            assert await it.hear("ready", "1", time=earlier + timedelta(seconds=2 * n)) is None
            it.seconds += 2.1
        late = earlier + timedelta(seconds=2 * DOUBTFUL)
        assert "is there already" in (await it.hear("ready", "1", time=late) or "")


async def test_its_own_heartbeat_is_its_echo(tmp_path: Path) -> None:
    async with stand(tmp_path, One) as it:
        waiting = asyncio.create_task(it.guard.heard())
        assert await it.hear("starting", OURS) is None
        await asyncio.wait_for(waiting, 10)


async def test_a_second_process_of_what_there_is_one_of_leaves_and_the_first_stays(
    short_path: Path,
) -> None:
    url = f"ipc://{short_path / 'bus'}"

    async def start(instance: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.services.runtime.clumsy", "is the only one"),
            *("--state", str(short_path), "--instance", instance),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )

    async with Broker(url, short_path), await connect(url, source="/test/1") as bus:
        async with bus.watch(FleetHeartbeat) as beats:
            first = await start("attic-1")
            while (await beats.get(timeout=30)).data.state != "ready":
                pass
            second = await start("cellar-1")
            _, err = await asyncio.wait_for(second.communicate(), 30)
            assert second.returncode == 2
            assert b"there is one clumsy on this bus already, process" in err
            assert first.returncode is None
            first.terminate()
            _, err = await asyncio.wait_for(first.communicate(), 30)
            assert first.returncode == 0, err
            told: list[tuple[str, str]] = []
            while ("attic-1", "stopped") not in told:
                beat = (await beats.get(timeout=30)).data
                told.append((beat.instance, beat.state))
        assert ("cellar-1", "ready") not in told
        assert ("cellar-1", "stopped") not in told
