"""Finds the processes of a running fleet and does to them what the schedule says."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.torture.fleet.schedule import SUPERVISOR, TRAINING, Fault

__all__ = ["Chaos", "family", "name_of"]

PATIENCE: Final = 12.0
"""Seconds that a fault waits for a target that is not there at the moment."""

SIGNALS: Final = {"kill": signal.SIGKILL, "restart": signal.SIGTERM, "freeze": signal.SIGSTOP}


def family(supervisor: int) -> dict[str, psutil.Process]:
    """The supervisor and its processes, by the names of the schedule; who is just gone is not."""
    found: dict[str, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(supervisor)
        found[SUPERVISOR] = root
        for child in root.children():
            with contextlib.suppress(psutil.Error):
                name = name_of(child.cmdline())
                if name:
                    found[name] = child
    factory = found.get("factory")
    if factory is not None:
        with contextlib.suppress(psutil.Error):
            children = factory.children()
            if children:
                found[TRAINING] = max(children, key=lambda it: it.create_time())
    return found


def name_of(words: Sequence[str]) -> str:
    """What the schedule calls a process of these words; nothing where it is none of the fleet's.

    Encoders have numbers, and so has the second one of any other service.
    """
    modules = [word for word in words if word == "bus" or word.startswith("services.")]
    if not modules:
        return ""
    name = "broker" if modules[0] == "bus" else modules[0].removeprefix("services.")
    number = words[list(words).index("--instance") + 1] if "--instance" in words else "1"
    return f"{name}-{number}" if name == "encoder" or number != "1" else name


@dataclass
class Chaos:
    """Carries a schedule out, and remembers what was done when."""

    supervisor: int
    say: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)
    """How often each action was taken."""
    missed: list[Fault] = field(default_factory=list)
    """Faults whose target was not there within the patience."""
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    """Target, and from when to when it was disturbed; seconds, monotonic."""
    together: int = 0
    """Faults that struck while another process was frozen."""
    frozen: dict[int, psutil.Process] = field(default_factory=dict)

    async def run(self, faults: Sequence[Fault]) -> None:
        """Return when the last fault is over; whatever is frozen is thawed on the way out."""
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for number, fault in enumerate(faults, 1):
                    await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                    group.create_task(self._strike(fault, f"{number}/{len(faults)}"))
        finally:
            for process in self.frozen.values():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    async def _strike(self, fault: Fault, which: str) -> None:
        process = await self._victim(fault.target)
        if process is None:
            self.missed.append(fault)
            self.say(f"fault {which}: {fault}: nobody there")
            return
        started = time.monotonic()
        self.together += bool(self.frozen)
        try:
            process.send_signal(SIGNALS[fault.action])
        except psutil.Error:
            self.missed.append(fault)
            return
        self.done[fault.action] += 1
        self.say(f"fault {which}: {fault} (process {process.pid})")
        if fault.action == "freeze":
            self.frozen[process.pid] = process
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                self.frozen.pop(process.pid, None)
                with contextlib.suppress(psutil.Error):  # killed meanwhile
                    process.send_signal(signal.SIGCONT)
        self.spans.append((fault.target, started, time.monotonic()))

    async def _victim(self, target: str) -> psutil.Process | None:
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            found = await asyncio.to_thread(family, self.supervisor)
            if target in found:
                return found[target]
            await asyncio.sleep(0.25)
        return None

    def disturbed(self, targets: Sequence[str], since: float, until: float) -> bool:
        """Whether one of these was struck, or still coming back, in that time."""
        return any(
            target in targets and began < until and ended + COMING_BACK > since
            for target, began, ended in (*self.spans, *self._now())
        )

    def _now(self) -> list[tuple[str, float, float]]:
        now = time.monotonic()
        names = family(self.supervisor) if self.frozen else {}
        return [(name, 0.0, now) for name, it in names.items() if it.pid in self.frozen]


COMING_BACK: Final = 30.0
"""Seconds after which a process that was struck must serve again."""
