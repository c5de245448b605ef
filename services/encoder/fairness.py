"""Whose turn it is: clients share a worker equally, and each client's requests share its part.

Between clients the one that was served least comes first (start-time fair queueing, Goyal, Vin and
Cheng 1996): who asks a hundred times as much waits behind itself, not before the others. Within a
client first comes the request that would be done first if all of its requests shared equally
(weighted fair queueing, Demers, Keshav and Shenker 1989): a query does not wait behind a bulk, and
a bulk is done no later than by sharing.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.encoder.batcher import Job

__all__ = ["Turns"]

FEW: Final = 64
"""So many clients are remembered before it is looked for whom to forget."""


class _Client:
    """The requests of one client, by turn."""

    def __init__(self, served: float, order: int) -> None:
        self.served = served
        """Tokens that it got, and those that it was lent when it came."""
        self.order = order
        """When it came: of equals the first to come is served first."""
        self.jobs: list[Job] = []
        self._shared = 0.0  # tokens that each would have been served, had they shared
        self._sharing: list[float] = []  # a heap: turns of those who would not be done by now

    def __lt__(self, other: _Client) -> bool:
        return (self.served, self.order) < (other.served, other.order)

    def add(self, job: Job) -> None:
        job.turn = self._shared + sum(job.lengths)
        heappush(self._sharing, job.turn)
        insort(self.jobs, job, key=attrgetter("turn"))

    def first(self) -> Job | None:
        """The request whose turn it is; those of which every row was taken are forgotten."""
        while self.jobs and not self.jobs[0].pending:
            self.jobs.pop(0)
        return self.jobs[0] if self.jobs else None

    def charge(self, tokens: int) -> None:
        self.served += tokens
        self._shared += tokens / max(len(self._sharing), 1)
        while self._sharing and self._sharing[0] <= self._shared:
            heappop(self._sharing)


class Turns:
    """Requests that wait, in the order in which their rows are to be computed."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        """Those that wait, and those that were served more than who waits."""
        self._waiting: list[_Client] = []
        """A heap of those that wait."""
        self._floor = 0.0
        """What the least served of those that waited had got: who comes starts there."""
        self._came = 0
        self._most = FEW

    def __iter__(self) -> Iterator[Job]:
        return (job for client in self._waiting for job in client.jobs)

    @property
    def clients(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """Let a request wait for its turn."""
        name = job.client
        client = self._clients.get(name)
        if client is None or not client.jobs:
            self._came += 1
            served = self._floor if client is None else max(client.served, self._floor)
            client = self._clients[name] = _Client(served, self._came)
            heappush(self._waiting, client)
        client.add(job)

    def first(self) -> Job | None:
        """The request whose row is next; None where nothing waits."""
        while self._waiting:
            client = self._waiting[0]
            job = client.first()
            if job is not None:
                self._floor = max(self._floor, client.served)
                return job
            heappop(self._waiting)
        # Whoever comes to an idle worker is equal to everybody else.
        self._clients.clear()
        self._floor = 0.0
        return None

    def charge(self, tokens: int) -> None:
        """A row of the first request is served: its client has had so much more."""
        client = self._waiting[0]
        client.charge(tokens)
        if client.first() is None:
            heappop(self._waiting)
            self._forget()
        else:
            heapreplace(self._waiting, client)

    def remove(self, jobs: Sequence[Job]) -> int:
        """Forget requests that need no more rows; the tokens that they waited for."""
        gone = set(map(id, jobs))
        freed = 0
        for client in self._waiting:
            for job in client.jobs:
                if id(job) in gone:
                    freed += sum(job.lengths[row] for row in job.pending)
            client.jobs = [job for job in client.jobs if id(job) not in gone]
        if gone:
            self._waiting = [client for client in self._waiting if client.jobs]
            heapify(self._waiting)
            self._forget()
        return freed

    def _forget(self) -> None:
        """Who waits for nothing and was served no more than others starts like anybody."""
        if len(self._clients) > self._most:
            self._clients = {
                name: client
                for name, client in self._clients.items()
                if client.jobs or client.served > self._floor
            }
            self._most = max(2 * len(self._clients), FEW)
