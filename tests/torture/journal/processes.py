"""The storm's processes: started, killed, frozen and started again; each life has its own file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tests.torture.journal.history import Acknowledged, Attempted, Life, Seen, read_life
from tests.torture.journal.roles import (
    BrokerRole,
    ConsumerRole,
    PublisherRole,
    Role,
    WatcherRole,
)
from tests.torture.journal.schedule import (
    BROKER,
    CONSUMERS,
    DERIVING,
    GROUPS,
    PUBLISHERS,
    WATCHERS,
    Plan,
)

__all__ = ["Processes"]

ROOT = Path(__file__).resolve().parents[3]
TYPES = tuple(sorted({kind for kinds in GROUPS.values() for kind in kinds}))


class Processes:
    """`with Processes(folder, plan) as fleet:` leaves nobody behind."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.state = folder / "state"
        self.url = f"ipc://{self.state}/bus"
        self.journal = self.state / "journal.sqlite"
        self.lives: dict[str, list[Life]] = {}
        """Of those that ended, once `ended` or `close` has read them."""
        self.away: dict[str, list[tuple[float, float]]] = {}
        self._folder = folder
        self._plan = plan
        self._pids: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._died: list[str] = []
        """Who died of itself and was not told of yet."""
        self._config = folder / "storm.toml"
        self._nursery: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        plan = self._plan
        self.state.mkdir(mode=0o700)
        self._config.write_text(
            f"[bus]\nheartbeat_seconds = 0.5\nfree_lapses = {plan.free_lapses}\n"
            f"max_deliveries = {plan.deliveries}\n"
        )
        # What measures coverage has no part in processes that are killed, and would slow them.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.journal.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            for pid in self._pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            with nursery:  # at the end of its input it kills everybody, and ends
                pass

    def _ask(self, question: Role | None) -> Any:
        nursery = self._nursery
        assert nursery is not None
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdin.write(msgspec.json.encode(question) + b"\n")
        nursery.stdin.flush()
        return msgspec.json.decode(nursery.stdout.readline())

    # one process

    def start(self, name: str) -> None:
        """Begin its next life."""
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        self._pids[name] = self._begin(name, number)
        if name in self._since:
            self.away.setdefault(name, []).append((self._since.pop(name), time.time()))

    def _begin(self, name: str, number: int) -> int:
        """Its process id."""
        pid: int = self._ask(self._role(name, number))
        return pid

    def running(self, name: str) -> bool:
        """Whether it is alive, frozen or not."""
        return name in self._pids

    def send(self, name: str, number: signal.Signals) -> bool:
        """Send it, if it is alive."""
        pid = self._pids.get(name)
        if pid is not None:
            os.kill(pid, number)
        return pid is not None

    def freeze(self, name: str) -> bool:
        """Stop it where it is, until `thaw`."""
        self._since.setdefault(name, time.time())
        return self.send(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        if self.send(name, signal.SIGCONT) and name in self._since:
            self.away.setdefault(name, []).append((self._since.pop(name), time.time()))

    def ended(self) -> list[str]:
        """Who has died of itself since it was asked last; their files are read."""
        self._reap()
        names, self._died = self._died, []
        return names

    def _reap(self) -> None:
        dead = set(self._ask(None))
        names = [name for name, pid in self._pids.items() if pid in dead]
        for name in names:
            del self._pids[name]
            self._since.setdefault(name, time.time())
            self._read(name)
        self._died += names

    def end(self, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = 20) -> None:
        """End it and wait until it is gone; raises `TimeoutError`."""
        if self.send(name, number):
            self.send(name, signal.SIGCONT)
            limit = time.monotonic() + seconds
            while name in self._pids:
                self._reap()
                if time.monotonic() > limit:
                    raise TimeoutError(f"{name} does not end")
                time.sleep(0.005)
        if name in self._died:  # nobody else who died meanwhile: `ended` is to tell of them
            self._died.remove(name)

    # lives

    def _path(self, name: str, number: int) -> Path:
        return self._folder / f"{name}.{number}.log"

    def _read(self, name: str) -> None:
        number = self._numbers[name]
        life = read_life(self._path(name, number), name, number, CONSUMERS.get(name, ""))
        self.lives.setdefault(name, []).append(life)

    def finished(self, name: str) -> bool:
        """Whether a publisher has done all that it was to do: it has ended by itself."""
        return name not in self._pids and self._next(name) > self._plan.quota()

    def _next(self, name: str) -> int:
        records = (record for life in self.lives.get(name, ()) for record in life.records)
        numbers = (int(r.id.partition(":")[2]) for r in records if isinstance(r, Attempted))
        return max(numbers, default=0) + 1

    def last_seen(self, name: str) -> int:
        """The last number that a watcher wrote down."""
        number = self._numbers[name]
        here = read_life(self._path(name, number), name, number)
        return _last([*self.lives.get(name, ()), here])

    def _role(self, name: str, number: int) -> Role:
        plan = self._plan
        common: dict[str, Any] = {
            "name": name,
            "number": number,
            "seed": plan.seed,
            "url": self.url,
            "log": str(self._path(name, number)),
        }
        if name == BROKER:
            return BrokerRole(
                state=str(self.state), config=str(self._config), grace=plan.grace, **common
            )
        lives = self.lives.get(name, [])
        if name in PUBLISHERS:
            records = [record for life in lives for record in life.records]
            told = {r.id for r in records if isinstance(r, Acknowledged)}
            begun = dict.fromkeys(r.id for r in records if isinstance(r, Attempted))
            return PublisherRole(
                first=self._next(name),
                last=plan.quota(),
                rate=plan.quota() / (0.85 * plan.storm),
                poisons=plan.poisons(name),
                unknown=[name for name in begun if name not in told],
                ingress=name == PUBLISHERS[-1],
                **common,
            )
        if name in WATCHERS:
            return WatcherRole(types=TYPES, after=_last(lives), **common)
        group = CONSUMERS[name]
        return ConsumerRole(
            group=group,
            types=GROUPS[group],
            most=1 if name.endswith("2") and group == DERIVING else 32,
            visibility=plan.visibility,
            derives=group == DERIVING,
            **common,
        )


def _last(lives: list[Life]) -> int:
    return max(
        (r.sequence for each in lives for r in each.records if isinstance(r, Seen)), default=0
    )
