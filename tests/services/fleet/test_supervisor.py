"""The supervisor over real processes: order, restarts, giving up, and that nothing is left."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from services.errors import GaveUpError, RefusedError
from services.fleet.beats import Beat, StopOrder
from services.fleet.plan import Part
from tests.services.fleet.harness import QUICK, DummyFleet, alive, part, running, until


async def test_parts_start_after_the_first_and_stop_in_reverse_order() -> None:
    fleet = DummyFleet([part("base"), part("one"), part("two")])
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        assert next(text.split()[0] for text in fleet.said) == "base-1"
        pids = [fleet.pid(name) for name in ("base", "one", "two")]

        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)

    assert fleet.lines == [("two", "stopping"), ("one", "stopping"), ("base", "stopping")]
    assert not any(map(alive, pids))


async def test_the_others_wait_for_the_first_to_be_ready() -> None:
    fleet = DummyFleet([part("base", "never"), part("one")])
    with running(fleet) as task:
        await until(lambda: fleet.pid("base"))
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)

    assert not fleet.ready.is_set()
    assert {name for name, _ in fleet.lines} <= {"base"}, "nothing else was started"


@pytest.mark.parametrize("victim", ["base", "one"])
async def test_a_killed_process_comes_back_and_the_others_stay(victim: str) -> None:
    fleet = DummyFleet([part("base"), part("one")])
    other = {"base": "one", "one": "base"}[victim]
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        before, stays = fleet.pid(victim), fleet.pid(other)

        os.kill(before, signal.SIGKILL)
        ready = f"{victim}-1 is ready (process "
        await until(lambda: sum(text.startswith(ready) for text in fleet.said) == 2)

        assert fleet.pid(victim) not in (0, before)
        assert fleet.pid(other) == stays
        assert any("was ended by signal 9; starting it again" in text for text in fleet.said)
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)


async def test_a_process_that_keeps_failing_ends_the_fleet_with_its_last_lines() -> None:
    fleet = DummyFleet([part("base"), part("one", "crashes-later")])
    with running(fleet) as task:
        await until(lambda: fleet.pid("base"))
        base = fleet.pid("base")
        with pytest.raises(GaveUpError, match=r"one-1 failed 5 times.*exit code 1") as caught:
            await asyncio.wait_for(task, 30)

    assert caught.value.last_lines[-1].startswith("BEAT")
    assert not alive(base)


async def test_what_never_was_ready_is_given_up_soon() -> None:
    fleet = DummyFleet([part("base"), part("one", "crashes")])
    with (
        running(fleet) as task,
        pytest.raises(GaveUpError, match="one-1 failed 2 times") as caught,
    ):
        await asyncio.wait_for(task, 20)

    assert caught.value.last_lines == ("about to crash",)
    assert not fleet.ready.is_set()


async def test_a_process_that_refuses_its_settings_is_not_tried_again() -> None:
    fleet = DummyFleet([part("base", "refuses")])
    with running(fleet) as task, pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(task, 20)

    assert str(caught.value) == "base-1 refused to start: my settings are wrong"
    assert caught.value.last_lines == ()
    assert fleet.lines == [("base", "my settings are wrong")]


async def test_a_program_that_is_not_there_is_named() -> None:
    fleet = DummyFleet([Part("base", "1", ("/no/such/program",))])
    with (
        running(fleet) as task,
        pytest.raises(GaveUpError, match="base-1 cannot be started: No such file"),
    ):
        await asyncio.wait_for(task, 20)


async def test_a_process_that_is_never_ready_counts_as_failed() -> None:
    settings = msgspec.structs.replace(QUICK, start_timeout=0.3)
    fleet = DummyFleet([part("base", "never")], settings)
    with running(fleet) as task, pytest.raises(GaveUpError, match=r"not ready after 0\.3 s"):
        await asyncio.wait_for(task, 20)


async def test_a_silent_process_is_replaced_while_those_who_speak_stay() -> None:
    settings = msgspec.structs.replace(QUICK, silence=1.0)
    fleet = DummyFleet([part("base"), part("one", "mute")], settings)
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        base, mute = fleet.pid("base"), fleet.pid("one")

        await until(lambda: any("one-1 was silent for 1 s" in text for text in fleet.said))

        await until(lambda: fleet.pid("one") not in (0, mute))
        assert fleet.pid("base") == base
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)


async def test_nobody_is_blamed_while_the_bus_is_silent_but_the_bus_itself() -> None:
    settings = msgspec.structs.replace(QUICK, silence=1.0)
    fleet = DummyFleet([part("base", "mute"), part("one", "mute")], settings)
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)

        await until(lambda: any("silent" in text for text in fleet.said))

        assert next(text for text in fleet.said if "silent" in text).startswith("base-1")
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)


async def test_who_does_not_heed_sigterm_is_killed_with_all_it_started() -> None:
    settings = msgspec.structs.replace(QUICK, stop_grace=0.2)
    fleet = DummyFleet([part("base", "stubborn")], settings)
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        await until(fleet.nested)
        pids = [fleet.pid("base"), *fleet.nested()]

        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)

    await until(lambda: not any(map(alive, pids)))


async def test_what_a_dead_process_left_behind_is_removed_before_it_is_restarted() -> None:
    fleet = DummyFleet([part("base", "nests")])
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        await until(fleet.nested)
        (orphan,) = fleet.nested()

        os.kill(fleet.pid("base"), signal.SIGKILL)

        await until(lambda: not alive(orphan))
        await until(lambda: len(fleet.nested()) == 2)
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)


async def test_the_bus_can_stop_the_fleet_or_one_service_of_it() -> None:
    fleet = DummyFleet([part("base"), part("one")])
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)

        fleet.queue.put_nowait(StopOrder("one"))
        await until(lambda: fleet.supervisor.keepers[1].dismissed.is_set())
        os.kill(fleet.pid("one"), signal.SIGTERM)
        await until(lambda: fleet.pid("one") == 0)
        assert not task.done()

        fleet.queue.put_nowait(StopOrder(None))
        await asyncio.wait_for(task, 20)

    assert not any("starting it again" in text for text in fleet.said)


async def test_a_kill_does_not_wait() -> None:
    fleet = DummyFleet([part("base", "stubborn")])
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        pid = fleet.pid("base")
        fleet.supervisor.stop()

        fleet.supervisor.kill()

        await asyncio.wait_for(task, 3)
        assert not alive(pid)


async def test_a_lost_connection_to_the_bus_is_made_again() -> None:
    class Unsteady(DummyFleet):
        connections = 0

        @asynccontextmanager
        async def _listen(self) -> AsyncIterator[AsyncIterator[Beat | StopOrder]]:
            self.connections += 1
            yield self._one_beat()

        async def _one_beat(self) -> AsyncIterator[Beat | StopOrder]:
            yield await self.queue.get()
            raise ConnectionError("gone")

    fleet = Unsteady([part("base"), part("one")])
    with running(fleet) as task:
        await asyncio.wait_for(fleet.ready.wait(), 20)
        fleet.supervisor.stop()
        await asyncio.wait_for(task, 20)

    assert fleet.connections >= 2
    assert "The bus does not answer: gone." in fleet.said
