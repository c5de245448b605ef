"""A fleet of dummy processes, whose beats are lines that they print."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from services.fleet.beats import Beat, StopOrder
from services.fleet.plan import Part
from services.fleet.supervisor import Supervisor
from services.runtime.settings import FleetSettings

DUMMY = Path(__file__).with_name("dummy.py")
QUICK = FleetSettings(
    start_timeout=20.0, stop_grace=5.0, backoff_first=0.01, backoff_max=0.05, silence=0.0
)


def part(name: str, mode: str = "good") -> Part:
    return Part(name, "1", (sys.executable, str(DUMMY), mode))


async def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition; fails after a deadline."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


class DummyFleet:
    """A supervisor over dummy processes, and all that it told."""

    def __init__(
        self, parts: list[Part], settings: FleetSettings = QUICK, *, own_bus: bool = True
    ) -> None:
        self.lines: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.ready = asyncio.Event()
        self.queue: asyncio.Queue[Beat | StopOrder] = asyncio.Queue()
        self.supervisor = Supervisor(
            parts,
            settings,
            listen=self._listen,
            reporter=self,
            own_bus=own_bus,
            chance=random.Random(0),
        )

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[AsyncIterator[Beat | StopOrder]]:
        yield self._beats()

    async def _beats(self) -> AsyncIterator[Beat | StopOrder]:
        while True:
            yield await self.queue.get()

    def line(self, part: Part, text: str) -> None:
        if text.startswith("BEAT "):
            _, pid, state = text.split()
            self.queue.put_nowait(Beat(int(pid), state))
        else:
            self.lines.append((part.service, text))

    def say(self, text: str, level: str = "info") -> None:
        self.said.append(text)

    async def run(self) -> None:
        await self.supervisor.run(self.ready.set)

    def pid(self, name: str) -> int:
        (keeper,) = (one for one in self.supervisor.keepers if one.part.service == name)
        return keeper.child.pid if keeper.child else 0

    def nested(self) -> list[int]:
        return [int(text.split()[1]) for _, text in self.lines if text.startswith("NESTED")]


@contextmanager
def running(fleet: DummyFleet) -> Iterator["asyncio.Task[None]"]:
    """The fleet as a task; whatever the test does, its processes end."""
    task = asyncio.ensure_future(fleet.run())
    try:
        yield task
    finally:
        fleet.supervisor.kill()
