"""A disk fails under a broker: it says so, acknowledges nothing false, and goes on."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bus
from bus.broker import Broker
from bus.journal.repair import repair
from schemas import Event, FeedbackGiven, FleetHeartbeat, TrainingProgressed
from tests.torture.disk.cases import Broken

__all__ = ["FAULTS", "Round", "can_mount", "fail"]

Way = Callable[[Broker, random.Random], Callable[[], None]]
_SETTINGS = bus.BrokerSettings(heartbeat_seconds=0.05)


@dataclass
class Round:
    """What became of one fault."""

    fault: str
    acknowledged: set[str] = field(default_factory=set)
    attempted: set[str] = field(default_factory=set)
    refused: int = 0
    kept: int = 0


def can_mount() -> bool:
    """Whether this user may mount a small file system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    options = ["mount", "-t", "tmpfs", "-o", "size=9m,mode=0700", "none", str(folder)]
    subprocess.run(options, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _ballast(broker: Broker, chance: random.Random) -> Callable[[], None]:
    """Another file takes all the room."""
    file = broker.state / "ballast"
    with file.open("wb", buffering=0) as opened:
        size = 1 << 16
        while size:
            try:
                while opened.write(bytes(size)) == size:
                    pass
            except OSError:
                pass
            size //= 2
    return file.unlink


def _frozen(broker: Broker, chance: random.Random) -> Callable[[], None]:
    """SQLite writes nothing; to take the file's rights away would not stop root."""

    def only(read: int) -> None:
        broker.core.writer.submit(
            lambda journal: journal.connection.execute(f"PRAGMA query_only = {read}"),
            lambda result: None,
        )

    only(1)
    return lambda: only(0)


def _cut(end: str) -> Way:
    def way(broker: Broker, chance: random.Random) -> Callable[[], None]:
        file = broker.state / f"journal.sqlite{end}"
        os.truncate(file, chance.randrange(file.stat().st_size))
        return lambda: None

    return way


def _remove(end: str) -> Way:
    def way(broker: Broker, chance: random.Random) -> Callable[[], None]:
        (broker.state / f"journal.sqlite{end}").unlink()
        return lambda: None

    return way


def _replace(broker: Broker, chance: random.Random) -> Callable[[], None]:
    file = broker.state / "journal.sqlite"
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)
    return lambda: None


FAULTS = {
    "the disk is full": ("disk_full", _ballast),
    "the disk is read-only": ("read_only", _frozen),
    "the file is cut": ("damaged", _cut("")),
    "the log is cut": ("damaged", _cut("-wal")),
    "the file is removed": ("damaged", _remove("")),
    "the log is removed": ("damaged", _remove("-wal")),
    "the file is replaced": ("damaged", _replace),
}
"""By the words for it: the code that publishers get, and the way; it returns what ends it."""
NEED_ROOT = frozenset({"the disk is full"})


async def fail(fault: str, chance: random.Random) -> Round:
    """Publish, let the disk fail, publish on, mend it, and count. Raises `Broken`."""
    with tempfile.TemporaryDirectory(prefix="cd", dir="/tmp") as folder:
        root = Path(folder)
        state, sockets = root / "state", root / "bus"
        state.mkdir(mode=0o700)
        if fault in NEED_ROOT:
            with _small_disk(state):
                return await _round(fault, state, f"ipc://{sockets}", chance)
        return await _round(fault, state, f"ipc://{sockets}", chance)


async def _round(fault: str, state: Path, url: str, chance: random.Random) -> Round:
    code, way = FAULTS[fault]
    found = Round(fault)
    async with (
        Broker(url, state, _SETTINGS) as broker,
        await bus.connect(url, source="/a/1") as one,
        one.watch(FleetHeartbeat) as beats,
        one.watch(TrainingProgressed) as live,
    ):
        for _ in range(chance.randint(5, 30)):
            if error := await _publish(one, found, chance):
                raise Broken(f"before {fault}: {error}")
        end = way(broker, chance)
        try:
            error = None
            for _ in range(400):
                if error := await _publish(one, found, chance, small=code == "damaged"):
                    break
            if error is None:
                raise Broken(f"{fault}, and nobody was told")
            if error.code != code:
                raise Broken(f"{fault}, and publishers are told {error.code}: {error}")
            await _state(beats, "degraded", fault)
            for n in range(3):
                step = Event(
                    data=TrainingProgressed(task_id="t", step=n, steps=9, loss=0.5, phase="head"),
                    source="/a/1",
                )
                await one.publish(step)
                if (await live.get(5)).data.step != n:
                    raise Broken(f"{fault}, and a live event is late")
            if code != "damaged":
                await _readable(one, found)
        finally:
            end()
        if code != "damaged":
            await _state(beats, "ready", fault)
            for _ in range(5):
                if again := await _publish(one, found, chance, small=True):
                    raise Broken(f"{fault}; it was mended, and yet: {again}")
        elif not await _publish(one, found, chance, again=True):
            raise Broken(f"{fault}, and an event is acknowledged all the same")
    if code == "damaged":
        repair(state)
    async with Broker(url, state, _SETTINGS), await bus.connect(url, source="/a/1") as one:
        kept = await _readable(one, found, lost=code == "damaged")
        found.kept = len(kept & found.acknowledged)
    return found


async def _publish(
    one: bus.Bus, found: Round, chance: random.Random, *, small: bool = False, again: bool = False
) -> bus.Refused | None:
    """Publish an event; the refusal, if that is what came. `again`: one that was acknowledged."""
    name = chance.choice(sorted(found.acknowledged)) if again else f"e{len(found.attempted)}"
    text = chance.randbytes(50 if small else chance.choice((100, 5_000, 40_000))).hex()
    found.attempted.add(name)
    event = Event(data=FeedbackGiven(query=text, relevant=("a",)), source="/a/1", id=name)
    try:
        await one.publish(event)
    except bus.Refused as e:
        found.refused += 1
        return e
    found.acknowledged.add(name)
    return None


async def _state(beats: bus.Subscription, state: str, fault: str) -> None:
    """Wait until the broker says so, and why."""
    try:
        async with asyncio.timeout(20):
            async for beat in beats:
                if beat.data.service == "broker" and beat.data.state == state:
                    if (state == "degraded") != bool(beat.data.trouble):
                        raise Broken(f"{fault}: {state}, and it says {beat.data.trouble!r}")
                    return
    except TimeoutError as e:
        raise Broken(f"{fault}, and the heartbeat never says {state}") from e


async def _readable(one: bus.Bus, found: Round, *, lost: bool = False) -> set[str]:
    """What the journal has: all that was acknowledged, nothing that nobody sent."""
    kept: set[str] = set()
    after = 0
    while events := (await one.read(FeedbackGiven, after=after)).events:
        kept |= {event.id for event in events}
        after = events[-1].sequence or after
    if not lost and found.acknowledged - kept:
        raise Broken(f"{found.fault}: {len(found.acknowledged - kept)} acknowledged events gone")
    if kept - found.attempted:
        raise Broken(f"{found.fault}: {len(kept - found.attempted)} events that nobody sent")
    return kept
