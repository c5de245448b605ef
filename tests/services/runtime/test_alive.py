"""A process is told alive by what it signs, on its own machine, whatever the bus does."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.broker import Broker
from services.runtime import alive

ROOT = Path(__file__).resolve().parents[3]
PROBE = (sys.executable, "-m", "services.runtime.alive")


def said(file: Path, *options: str) -> tuple[int, str]:
    """What the probe answers, run as an orchestrator runs it."""
    environment = {**os.environ, alive.VARIABLE: str(file)}
    done = subprocess.run(
        (*PROBE, *options), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr.strip()


@pytest.fixture
async def process(short_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    url = f"ipc://{short_path / 'bus'}"
    async with Broker(url, short_path):
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.services.runtime.clumsy", "none"),
            *("--state", str(short_path)),
            cwd=ROOT,
            env={**os.environ, alive.VARIABLE: str(short_path / "alive")},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        yield started
        if started.returncode is None:
            started.kill()
        await started.wait()


async def until_ready(file: Path) -> None:
    async with asyncio.timeout(30):
        while alive.trouble(file, ready=True):
            await asyncio.sleep(0.05)


async def test_a_process_is_ready_until_it_is_killed_and_no_longer(
    process: asyncio.subprocess.Process, short_path: Path
) -> None:
    file = short_path / "alive"

    await until_ready(file)
    assert said(file, "--ready") == (0, "")

    process.kill()
    await process.wait()
    assert said(file) == (1, f"alive: the process that signed {file} is gone")


async def test_a_process_that_stands_still_is_not_alive(
    process: asyncio.subprocess.Process, short_path: Path
) -> None:
    file = short_path / "alive"
    await until_ready(file)

    process.send_signal(signal.SIGSTOP)
    while alive.trouble(file, stale=2.5) is None:
        await asyncio.sleep(0.02)

    code, why = said(file, "--stale", "2.5")
    process.send_signal(signal.SIGCONT)
    assert code == 1
    assert "the last sign of life is" in why


@pytest.mark.parametrize(
    ("state", "ready"),
    [("starting", False), ("ready", True), ("degraded", True), ("draining", False)],
    ids=["starting", "ready", "degraded", "draining"],
)
def test_who_lives_need_not_be_ready(tmp_path: Path, state: str, ready: bool) -> None:
    file = tmp_path / "alive"
    alive.sign(file, state)

    assert alive.trouble(file) is None
    assert alive.trouble(file, ready=True) == (None if ready else f"it is {state}, not ready")
    assert [path.name for path in tmp_path.iterdir()] == ["alive"]


@pytest.mark.parametrize("text", ["", "ready", "ready a b c", "ready 1 2 soon", "réady 1 2 3"])
def test_what_nobody_signed_is_no_sign(tmp_path: Path, text: str) -> None:
    file = tmp_path / "alive"
    assert alive.trouble(file) == f"nobody has signed {file} yet"

    file.write_text(text, "utf-8")
    assert f"{file} is no sign of life" in (alive.trouble(file) or "")


async def test_a_sign_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alive.VARIABLE, str(tmp_path / "nowhere" / "alive"))
    failures: asyncio.Queue[OSError] = asyncio.Queue()

    keeping = asyncio.create_task(alive.keep(lambda: "ready", failures.put_nowait))
    assert isinstance(await asyncio.wait_for(failures.get(), 10), FileNotFoundError)
    assert not keeping.done(), "it tries again"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_nothing_is_written_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(alive.VARIABLE, raising=False)

    await asyncio.wait_for(alive.keep(lambda: "ready", lambda error: None), 10)

    with pytest.raises(SystemExit):
        alive.main([])


def test_the_probe_reads_little() -> None:
    """It runs every few seconds beside each process: nothing but Python's own is imported."""
    listed = "import sys, services.runtime.alive as _; print(*sys.modules)"
    done = subprocess.run(
        (sys.executable, "-S", "-c", listed), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"msgspec", "zmq", "bus", "numpy"} & set(done.stdout.split())
