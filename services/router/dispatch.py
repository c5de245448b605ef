"""Hands assignments to workers, hands them on when a worker is gone, and keeps the books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from schemas import AssignedRow, EncodeAssigned, EncodeFailed, Event, Role, now
from services.router.errors import Refused
from services.router.outstanding import Answer, Entry, Outstanding
from services.router.placement import Change, Work, Workers, estimate, fingerprint
from services.runtime.tracing import here

__all__ = ["Dispatcher"]

PATIENCE: Final = 5.0
"""Seconds after which an assignment that is asked for again, or that the router itself waits for,
is sent to the same worker once more: live events may be lost, and the worker knows its own."""

Send = Callable[[Event[Any]], Awaitable[None]]


class Dispatcher:
    """Workers and books together. Every decision is made on the event loop, without waiting."""

    def __init__(self, *, source: str, address: str, send: Send) -> None:
        self._source = source
        self._address = address
        self._send = send
        self.workers = Workers()
        self.books = Outstanding()
        self.reassigned = 0
        self.finished_texts = 0
        self._ticked = time.monotonic()

    # Requests ---------------------------------------------------------------------------------

    async def place(self, entry: Entry, assigned: Event[EncodeAssigned], work: Work) -> None:
        """Hand a decided request to the worker that will be done first, or let it wait for one."""
        if self.books.get(entry.key) is not entry:
            return  # its deadline passed meanwhile
        entry.work = work
        self.books.assign(entry, assigned)
        await self._place(entry)

    async def ask(
        self, role: Role, texts: Sequence[str], deadline: datetime, client: str = ""
    ) -> Answer:
        """Base vectors for the router itself, outside the bound on outstanding texts.

        They are needed on behalf of `client`, and take its turn. Raises `Refused` where no worker
        answers within the deadline.
        """
        request = EncodeAssigned(
            request_id="",
            texts=tuple(texts),
            role=role,
            deadline=deadline,
            skills=(),
            rows=(AssignedRow(reason="base_requested"),) * len(texts),
            reply_to=self._address,
            router=self._address,
            client=client,
            several=True,
        )
        origin = here()  # the request that cannot be routed before
        event: Event[EncodeAssigned] = Event(
            data=request,
            source=self._source,
            correlation_id=origin.correlation_id,
            causation_id=origin.causation_id,
            traceparent=origin.traceparent,
        )
        event = msgspec.structs.replace(
            event, data=msgspec.structs.replace(request, request_id=event.id)
        )
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry = Entry(
            key=(self._source, event.id),
            deadline=deadline,
            texts=0,
            assigned=event,
            work=Work(tokens=sum(map(estimate, texts)), tie=fingerprint(role, texts)),
            answer=answer,
        )
        self.books.open(entry)
        try:
            await self._place(entry)
            return await answer
        finally:
            self._close(entry)

    async def repeat(self, entry: Entry) -> None:
        """A client asks again for what is outstanding."""
        if entry.worker is not None and time.monotonic() - entry.sent > PATIENCE:
            await self._hand(entry, entry.worker)

    def finished(self, id: str, failed: str | None) -> Entry | None:
        """A worker is done with an assignment; the client's entry that this closed, if any.

        `failed`: why it is not answered with vectors.
        """
        entry = self.books.of_assignment(id)
        # The router's own requests end with their vectors, which may come a moment later.
        if entry is None or entry.own:
            return None
        self.finished_texts += entry.texts
        if failed is not None:
            entry.span.fail(failed)
        return entry if self._close(entry) else None

    def answered(self, id: str, answer: Answer) -> None:
        """A worker sent the vectors that the router asked for."""
        entry = self.books.of_assignment(id)
        if entry is not None and entry.answer is not None and not entry.answer.done():
            entry.answer.set_result(answer)

    def refused(self, id: str, failed: EncodeFailed) -> None:
        """A worker could not compute what the router asked for."""
        entry = self.books.of_assignment(id)
        if entry is not None and entry.answer is not None and not entry.answer.done():
            entry.answer.set_exception(
                Refused(failed.code, failed.message, retry_after_ms=failed.retry_after_ms)
            )

    # Workers ----------------------------------------------------------------------------------

    async def beat(
        self, address: str, pid: int, state: str, pace: float = 0.0, waiting: float = 0.0
    ) -> Change:
        """A worker's heartbeat: what it changes is done at once.

        `waiting` tokens wait there, whoever gave them; 0 where nobody else gives any.
        """
        change = self.workers.beat(address, pid, state, time.monotonic())
        self.workers.paced(address, pace)
        self.workers.waits(address, waiting)
        if change is Change.LOST:
            await self._hand_on(address)
        if change is not Change.NONE:
            for entry in self.books.unplaced():
                await self._place(entry)
        return change

    async def tick(self) -> tuple[Entry, ...]:
        """Hand on what silent workers had; the clients' entries that are late, already closed."""
        moment = time.monotonic()
        self.workers.elapse(moment - self._ticked)
        self._ticked = moment
        for address in self.workers.expire(moment):
            await self._hand_on(address)
        for entry in self.books:
            overdue = entry.own and entry.worker and time.monotonic() - entry.sent > PATIENCE
            if overdue and entry.worker:
                await self._hand(entry, entry.worker)
        late = self.books.late(now())
        for entry in late:
            entry.span.fail("deadline")
            if entry.answer is not None and not entry.answer.done():
                entry.answer.set_exception(
                    Refused("deadline", "the deadline passed before it could be routed")
                )
            self._close(entry)
        return tuple(entry for entry in late if not entry.own)

    def drop(self, entry: Entry) -> bool:
        """Take a request off the books; whether it was on them."""
        return self._close(entry)

    async def _hand_on(self, address: str) -> None:
        entries = self.books.of_worker(address)
        for entry in entries:  # all at first: the same address may be a new process with no load
            self._release(entry)
        self.reassigned += len(entries)
        for entry in entries:
            await self._place(entry)

    async def _place(self, entry: Entry) -> None:
        if entry.work is None or entry.assigned is None:
            return
        address = self.workers.choose(entry.work)
        if address is None:
            return
        worker = self.workers.get(address)
        if worker is not None:
            entry.cost = max(entry.work.cost(worker) - worker.load, 1)
            worker.cards.update(entry.work.cards)  # it will have them when it is done
        entry.worker = address
        self.workers.take(address, entry.cost)
        await self._hand(entry, address)

    async def _hand(self, entry: Entry, address: str) -> None:
        if entry.assigned is not None:
            entry.sent = time.monotonic()
            await self._send(msgspec.structs.replace(entry.assigned, to=address))

    def _release(self, entry: Entry) -> None:
        if entry.worker is not None:
            self.workers.take(entry.worker, -entry.cost)
        entry.worker, entry.cost = None, 0

    def _close(self, entry: Entry) -> bool:
        was = self.books.close(entry)
        self._release(entry)
        entry.span.end()
        return was
