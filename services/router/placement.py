"""Which worker serves a request: the one that will be done first, with low churn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Final

from services.runtime.siblings import SILENCE, weight

__all__ = ["Change", "Work", "Worker", "Workers", "estimate", "fingerprint"]

CARD_COST: Final = 512
"""What mapping a card that a worker does not hold is worth, in tokens."""

_MAX_TOKENS: Final = 512


def estimate(text: str) -> int:
    """Roughly the tokens of a text; the model, which knows better, is elsewhere."""
    return min(2 + len(text) // 4, _MAX_TOKENS)


def fingerprint(role: str, texts: Iterable[str]) -> str:
    """What tells equal workers apart where no card does: the same texts go to the same worker,
    whose cache may hold them."""
    digest = blake2b(role.encode(), digest_size=16)
    for text in texts:
        digest.update(b"\n" + text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class Change(Enum):
    """What a heartbeat says that was not known before."""

    NONE = "none"
    JOINED = "joined"
    """A worker takes work from now on."""
    LOST = "lost"
    """A worker takes none any more, or is another process now: what it had in hand is gone."""


@dataclass(frozen=True)
class Work:
    """What a request asks of whoever serves it."""

    tokens: int
    """Estimated, as if nothing were cached."""
    cards: tuple[str, ...] = ()
    """The digests that it needs."""
    saved: Mapping[str, int] = field(default_factory=dict)
    """Tokens that a worker need not compute, since it holds the base vectors."""
    tie: str = ""
    """What decides between equals; empty: the cards."""

    def cost(self, worker: Worker) -> int:
        """Tokens until `worker` would be done with it."""
        load = worker.load + round(worker.others)
        if self.cards:
            load += CARD_COST * sum(digest not in worker.cards for digest in self.cards)
        return load + max(self.tokens - self.saved.get(worker.address, 0), 0)


@dataclass(eq=False)
class Worker:
    """An encoder as its heartbeats tell."""

    address: str
    pid: int
    state: str
    seen: float
    """Seconds, monotonic."""
    load: int = 0
    """Estimated tokens in its hands that this router gave it."""
    others: float = 0.0
    """Tokens that wait there besides: other routers gave them."""
    pace: float = 0.0
    """Tokens that it gets done in a second; 0 where it does not say."""
    cards: set[str] = field(default_factory=set)

    @property
    def ready(self) -> bool:
        """Whether it takes work."""
        return self.state in ("ready", "degraded")

    def is_followed_by(self, pid: int, state: str) -> bool:
        """Whether this heartbeat is of another process, or its last.

        Nobody starts twice: under the same number, too, which it has in every life of a container,
        who starts is another.
        """
        again = state == "starting" != self.state
        return pid != self.pid or again or state == "stopped"


class Workers:
    """The encoders that live."""

    def __init__(self, silence: float = SILENCE) -> None:
        self._silence = silence
        self._workers: dict[str, Worker] = {}

    def __len__(self) -> int:
        return sum(worker.ready for worker in self._workers.values())

    def __contains__(self, address: object) -> bool:
        worker = self._workers.get(str(address))
        return worker is not None and worker.ready

    def get(self, address: str) -> Worker | None:
        """The worker of this address, ready or not."""
        return self._workers.get(address)

    @property
    def pace(self) -> float:
        """Tokens that those who take work get done in a second; 0 where one of them does not
        say."""
        paces = [worker.pace for worker in self._workers.values() if worker.ready]
        return sum(paces) if all(paces) else 0.0

    def paced(self, address: str, pace: float) -> None:
        """A worker says how many tokens it gets done in a second."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.pace = pace

    def waits(self, address: str, tokens: float) -> None:
        """So many tokens wait at a worker, given by whomever."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.others = max(tokens - worker.load, 0.0)

    def elapse(self, seconds: float) -> None:
        """Time goes by, in which workers get on with what others gave them."""
        for worker in self._workers.values():
            worker.others = max(worker.others - worker.pace * seconds, 0.0)

    def beat(self, address: str, pid: int, state: str, now: float) -> Change:
        """Take note of a heartbeat."""
        worker = self._workers.get(address)
        if worker is not None and not worker.is_followed_by(pid, state):
            before = worker.ready
            worker.seen = now
            # One that drains finishes what it has: nothing is lost, it only takes nothing new.
            worker.state = state
            return Change.JOINED if worker.ready and not before else Change.NONE
        if worker is not None:
            del self._workers[address]
        new = Worker(address, pid, state, now)
        if state != "stopped":
            self._workers[address] = new
        if worker is not None:
            return Change.LOST
        return Change.JOINED if new.ready else Change.NONE

    def expire(self, now: float) -> tuple[str, ...]:
        """Forget the workers that have been silent too long; their addresses."""
        gone = tuple(
            address
            for address, worker in self._workers.items()
            if now - worker.seen > self._silence
        )
        for address in gone:
            del self._workers[address]
        return gone

    def loaded(self, address: str, digest: str) -> None:
        """A worker holds a card."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.cards.add(digest)

    def unloaded(self, address: str, digest: str) -> None:
        """A worker holds a card no more."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.cards.discard(digest)

    def take(self, address: str, tokens: int) -> None:
        """A worker was given so much, or (negative) is rid of it."""
        worker = self._workers.get(address)
        if worker is not None:
            worker.load = max(worker.load + tokens, 0)

    def choose(self, work: Work) -> str | None:
        """The worker that should serve it, None where none is ready.

        The least cost wins; equals are told apart by rendezvous hashing over the texts or the
        cards, so that each has its own favourite and keeps it when others come and go.
        """
        candidates = [worker for worker in self._workers.values() if worker.ready]
        if not candidates:
            return None
        costs = [work.cost(worker) for worker in candidates]
        least = min(costs)
        equal = [it.address for it, cost in zip(candidates, costs, strict=True) if cost == least]
        if len(equal) == 1:  # a hash for each of many workers takes longer than all else
            return equal[0]
        topic = work.tie or "\n".join(sorted(work.cards))
        return min(equal, key=lambda address: weight(topic, address))
