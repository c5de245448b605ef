"""A health check believes heartbeats, and nothing else."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus import Bus, connect
from schemas import Event, FleetHeartbeat
from services.fleet.health import main, trouble

ROOT = Path(__file__).resolve().parents[3]


async def say(bus: Bus, service: str, instance: str, state: str) -> None:
    beat = FleetHeartbeat(
        service=service, instance=instance, pid=1, state=state, queue=0, rss_bytes=0, counters={}
    )
    await bus.publish(Event(data=beat, source=bus.source))


@asynccontextmanager
async def saying(beats: Mapping[tuple[str, str], str], name: str) -> AsyncIterator[Bus]:
    """A bus on which processes say, again and again, how they are."""
    url = f"memory://health-{name}"
    async with await connect(url, source="/test/1") as bus, await connect(url, source="/h/1") as h:

        async def beat() -> None:
            while True:
                for (service, instance), state in beats.items():
                    await say(bus, service, instance, state)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(beat())
        try:
            yield h
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("instance", "why"),
    [
        (None, None),
        ("2", None),
        ("1", "encoder/1 is starting, not ready"),
        ("3", "encoder/3 said nothing within 0.2 s"),
        ("4", None),
    ],
)
async def test_a_process_is_judged_by_its_own_word(instance: str | None, why: str | None) -> None:
    beats = {
        ("router", "1"): "ready",
        ("router", "3"): "ready",
        ("encoder", "1"): "starting",
        ("encoder", "2"): "ready",
        ("encoder", "4"): "degraded",
    }
    async with saying(beats, f"{instance}") as bus:
        assert await trouble(bus, "encoder", instance, 0.2 if why else 20.0) == why


async def test_a_service_whose_processes_all_drain_is_not_ready() -> None:
    async with saying({("encoder", "1"): "draining", ("router", "1"): "ready"}, "drain") as bus:
        assert await trouble(bus, "encoder", None, 0.2) == "encoder is draining, not ready"


async def test_becoming_ready_while_it_listens_is_enough() -> None:
    beats = {("api", "1"): "starting"}
    async with saying(beats, "becoming") as bus:
        looking = asyncio.create_task(trouble(bus, "api", None, 20.0))
        await asyncio.sleep(0.1)
        assert not looking.done()
        beats["api", "1"] = "ready"
        assert await looking is None


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--bus", "ipc:///nowhere/at/all"], 1, "health: "),
        (["--bus", "tcp://127.0.0.1:5550"], 1, "health: tcp needs this client's key pair"),
        (["--config", "gone.toml"], 2, "health: gone.toml cannot be read"),
    ],
    ids=["nobody", "no-key", "settings"],
)
def test_a_bus_that_cannot_be_asked_is_one_sentence(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main(["--service", "router", "--timeout", "0.3", *words]) == code
    assert time.monotonic() - start < 10
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1


def test_it_starts_without_what_it_does_not_need() -> None:
    """It runs in every container, again and again."""
    code = (
        "import sys, services.fleet.health\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'starlette'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"
