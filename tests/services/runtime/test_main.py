"""The life of a process from outside: it is told to stop, and stops, whatever it was at."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus import Bus, connect
from bus.broker import Broker
from schemas import Event, FleetHeartbeat, FleetStop

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def bus(short_path: Path) -> AsyncIterator[Bus]:
    url = f"ipc://{short_path / 'bus'}"
    async with Broker(url, short_path), await connect(url, source="/test/1") as bus:
        yield bus


async def start(folder: Path, fault: str, config: str = "") -> asyncio.subprocess.Process:
    (folder / "settings.toml").write_text(config)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.services.runtime.clumsy", fault),
        *("--state", str(folder), "--config", str(folder / "settings.toml")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process, seconds: float) -> tuple[str, str]:
    """What it wrote; killed, and the test failed, where it does not end in time."""
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise AssertionError(f"it did not end within {seconds} s") from None
    return out.decode(), err.decode()


async def says(bus: Bus, state: str) -> None:
    async with bus.watch(FleetHeartbeat) as beats:
        while True:
            beat = (await beats.get(timeout=20)).data
            if (beat.service, beat.state) == ("clumsy", state):
                return


async def test_a_stop_during_a_load_that_cannot_be_interrupted(bus: Bus, short_path: Path) -> None:
    process = await start(short_path, "loads")
    await says(bus, "starting")

    process.send_signal(signal.SIGTERM)
    out, err = await ended(process, 10)

    assert process.returncode == 0, err
    assert "DRAINS" not in out, "what was never set up has nothing to drain"


async def test_a_drain_that_never_ends_is_cut_off_within_the_grace(
    bus: Bus, short_path: Path
) -> None:
    process = await start(short_path, "never drains", "[fleet]\nstop_grace = 4.0\n")
    await says(bus, "ready")

    began = time.monotonic()
    await bus.publish(Event(data=FleetStop(service="clumsy"), source=bus.source))
    out, err = await ended(process, 15)

    assert process.returncode == 0, err
    assert "DRAINS" in out
    assert "not drained in time" in err
    assert time.monotonic() - began > 1.5, "it had its time"


async def test_a_wait_in_vain_is_a_failure_and_no_orderly_stop(bus: Bus, short_path: Path) -> None:
    process = await start(short_path, "waits in vain")

    out, err = await ended(process, 20)

    assert process.returncode == 1
    assert "nobody told me" in err
    assert "DRAINS" not in out


async def test_a_crash_in_the_background_ends_the_process(bus: Bus, short_path: Path) -> None:
    process = await start(short_path, "crashes")

    _, err = await ended(process, 20)

    assert process.returncode == 1
    assert "it went wrong" in err


async def test_a_process_finds_the_bus_by_the_environment_where_nothing_else_says_it(
    bus: Bus, short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSONANCE_BUS", f"ipc://{short_path / 'bus'}")
    process = await start(tmp_path, "none")

    await says(bus, "ready")

    process.send_signal(signal.SIGTERM)
    _, err = await ended(process, 10)
    assert process.returncode == 0, err
