"""The router: decides which skills apply and which worker serves, and owes every request a word."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bus import BusError
from schemas import (
    AdapterLoaded,
    AdapterUnloaded,
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeFinished,
    EncodeRequested,
    Event,
    FleetHeartbeat,
    PeerLeft,
    SkillCard,
    SkillDiscovered,
    SkillListed,
    SkillListRequested,
    SkillUnavailable,
    SkillWanted,
    address_of,
    now,
)
from services.errors import AttachmentError
from services.router.admission import Admission, Limits
from services.router.base_vectors import BaseVectors
from services.router.dispatch import Dispatcher
from services.router.errors import Refused
from services.router.hearing import Hearing
from services.router.meter import Meter
from services.router.news import NEWS, News
from services.router.offers import Offers
from services.router.outstanding import Answer, Entry
from services.router.peers import Peers
from services.router.placement import Change, estimate
from services.router.planning import Plan, Planner, work_of
from services.router.skills import Skills
from services.router.validation import check, check_assignment
from services.runtime.service import Context, Service
from services.runtime.siblings import Siblings
from services.runtime.tracing import NOTHING, begin, following, tracing
from services.runtime.vectors import from_stream

__all__ = ["RouterService"]

TICK: Final = 0.25
"""Seconds between two looks at deadlines and silent workers."""

SETUP_PATIENCE: Final = 2.0
"""Seconds for which being ready waits for the manager's list."""

LONGEST_MS: Final = 366 * 86_400_000
"""Milliseconds; a deadline beyond a year is no nearer."""

MISSED: Final = 3
"""An offer that was not repeated so often is over."""

SLACK: Final = 2.0
"""Seconds that the last repetition may be late."""

PARTING: Final = 2.0
"""Seconds for which a router that leaves others behind still decides what it has taken."""


class RouterService(Service):
    """One decision per request; what must be waited for waits in a task of its own."""

    name: ClassVar[str] = "router"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        own = self.settings.router
        self.dispatcher = Dispatcher(source=self.source, address=self.address, send=self._send)
        self.siblings = Siblings(self.address)
        self.admission = Admission(
            self.dispatcher.books,
            Limits(own.max_outstanding_texts, own.max_wait),
            pace=lambda: self.dispatcher.workers.pace,
            routers=lambda: self.siblings.count(time.monotonic()),
        )
        self.vectors = BaseVectors(own.cache_entries)
        self.peers = Peers(self._want, own.peer_timeout)
        limits = self.settings.federation
        self.skills = Skills(
            description_threshold=own.description_threshold,
            embed=self._embed,
            log=self.log,
            offers=Offers(limits.max_peers, limits.max_cards),
            patience=MISSED * limits.repeat + SLACK,
        )
        self.planner = Planner(
            directory=self.skills.directory,
            vectors=self.vectors,
            ask=self.dispatcher.ask,
            fetcher=self.peers,
            index=self.skills.index,
            routable=self.skills.routable,
        )
        self.counters = dict.fromkeys(
            (
                *("requests", "texts", "finished", "refused", "reassigned"),
                *("skills", "workers", "routers"),
            ),
            0,
        )
        self.meter = Meter()
        self.hearing = Hearing(self.bus.heads, NEWS)
        self.news = News(self.skills, self.peers, self.hearing, self.log, self._describe)
        self._manager: int | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def queue(self) -> int:
        """Texts of clients that are not answered yet."""
        return self.dispatcher.books.all.texts

    async def setup(self) -> None:
        """Listen, then learn from the manager which skills there are."""
        head = await self.hearing.head()
        await self.listen(FleetHeartbeat, self._beat)
        await self.listen((EncodeCompleted, EncodeFailed), self._own_answer, to=self.address)
        await self.listen(EncodeFinished, self._finished, to=self.address)
        await self.listen((AdapterLoaded, AdapterUnloaded), self._adapter)
        await self.listen(SkillListed, self.news.list, to=self.address)
        await self.listen((SkillDiscovered, SkillUnavailable, PeerLeft), self.news.peer)
        # What was installed before now the manager lists; what is after, the journal tells.
        self.hearing.heard(head)
        await self.listen(NEWS, self.news.skill, after=head)
        self.spawn(self.news.ask(self._ask_for_list), "list")
        self.spawn(self._tick(), "tick")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETUP_PATIENCE):
                await self.news.listed.wait()
        await self.listen(EncodeRequested, self._requested)

    async def drain(self) -> None:
        """Who shares the work takes what comes; what is here is handed to an encoder."""
        if self._serving and self.siblings.others(time.monotonic()):
            await asyncio.wait(self._serving, timeout=PARTING)

    async def aclose(self) -> None:
        """Requests that are not decided are forgotten: their clients ask again."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await super().aclose()

    # Requests ---------------------------------------------------------------------------------

    async def _requested(self, event: Event[EncodeRequested]) -> None:
        if not self.siblings.is_mine(f"{event.source}\n{event.id}", time.monotonic()):
            return
        data, books = event.data, self.dispatcher.books
        key = (event.source, event.id)
        known = books.get(key)
        if known is not None:
            await self.dispatcher.repeat(known)
            return
        own = self.settings.router
        span = NOTHING
        if tracing():
            facts: dict[str, Any] = {"id": event.id, "texts": len(data.texts), "route": data.route}
            span = begin("router request", event.traceparent, **facts)
            event = msgspec.structs.replace(event, traceparent=span.traceparent)
        try:
            deadline = _deadline(event)
            check(data, max_texts=own.max_texts, max_text_bytes=own.max_text_bytes)
            left = (deadline - now()).total_seconds()
            if left <= 0:
                raise Refused("deadline", f"the deadline of {data.deadline_ms} ms has passed")
            texts, tokens, came = len(data.texts), sum(map(estimate, data.texts)), time.monotonic()
            self.admission.check(event.source, texts, tokens, left, came)
        except Refused as refusal:
            span.fail(refusal.code)
            span.end()
            await self._refuse(event, refusal)
            return
        self.counters["requests"] += 1
        self.counters["texts"] += texts
        entry = Entry(
            key=key,
            deadline=deadline,
            texts=texts,
            tokens=tokens,
            came=came,
            request=event,
            span=span,
        )
        books.open(entry)
        with following(event):
            self.log.debug("request", id=event.id, texts=texts, route=data.route)
            complete = data.route == "base" or self.news.listed.is_set()
            plan = self.planner.at_once(data) if complete else None
            if plan is None:
                self._aside(self._serve(event, entry))
            else:  # nothing is waited for: a task would take as long as the decision
                await self._serve(event, entry, plan)

    async def _serve(
        self, event: Event[EncodeRequested], entry: Entry, plan: Plan | None = None
    ) -> None:
        data = event.data
        try:
            if plan is None:
                async with asyncio.timeout((entry.deadline - now()).total_seconds()):
                    if data.route != "base":
                        await self.news.until_listed(data.route)
                    plan = await self._planned(event, entry)
            assigned = self._assignment(event, entry, plan)
            check_assignment(assigned, self.settings.bus.max_event_bytes)
            work = work_of(data, plan, self.vectors)
            before = self.dispatcher.books.served_by(entry.key)
            if before is not None:  # it may still hold the answer
                work = replace(work, saved={**work.saved, before: work.tokens})
            await self.dispatcher.place(entry, assigned, work)
            self.log.debug(
                "assigned",
                id=event.id,
                assignment=assigned.id,
                worker=entry.worker,
                cards=len(plan.cards),
            )
        except TimeoutError:
            pass  # the tick tells the client
        except Refused as refusal:
            entry.span.fail(refusal.code)
            if self.dispatcher.drop(entry):
                await self._refuse(event, refusal)
        except Exception as error:
            entry.span.fail(type(error).__name__)
            self.log.exception("request not routed", id=event.id)
            if self.dispatcher.drop(entry):
                await self._refuse(event, Refused("internal", "the router failed; see its log"))

    def _assignment(
        self, event: Event[EncodeRequested], entry: Entry, plan: Plan
    ) -> Event[EncodeAssigned]:
        data = event.data
        assigned = EncodeAssigned(
            request_id=event.id,
            texts=data.texts,
            role=data.role,
            deadline=entry.deadline,
            skills=plan.skills,
            rows=plan.rows,
            reply_to=data.reply_to,
            router=self.address,
            client=event.source,
            several=True,
        )
        return event.derive(assigned, source=self.source)

    async def _refuse(self, event: Event[EncodeRequested], refusal: Refused) -> None:
        with following(event):
            self.log.debug("refused", id=event.id, code=refusal.code)
        self.counters["refused"] += 1
        self.meter.failed(event.source, time.monotonic())
        if not event.data.reply_to:
            return
        failed = EncodeFailed(
            request_id=event.id,
            code=refusal.code,
            message=str(refusal),
            retry_after_ms=refusal.retry_after_ms,
        )
        answer = event.derive(failed, source=self.source, to=event.data.reply_to)
        await self._send(msgspec.structs.replace(answer, correlation_id=event.id))

    async def _finished(self, event: Event[EncodeFinished]) -> None:
        data = event.data
        await self._over(event.causation_id or "", data.failed, data.worker)
        for more in data.also:
            await self._over(more.assignment, more.failed, data.worker)

    async def _over(self, assignment: str, failed: str | None, worker: str) -> None:
        """A worker is done with the assignment of this id, `failed` or not."""
        entry = self.dispatcher.finished(assignment, failed)
        if entry is None or entry.request is None:
            return
        with following(entry.request):
            self.log.debug("finished", id=entry.request.id, worker=worker)
        source, moment = entry.request.source, time.monotonic()
        if failed is None:
            self.meter.answered(source, entry.texts, moment - entry.came, moment)
        elif failed != "deadline":
            self.meter.failed(source, moment)  # its worker has told the client
        else:
            # Only here, or where the tick closes the entry: a client is told once.
            why = "the deadline passed in the queue of its worker"
            await self._refuse(entry.request, Refused("deadline", why))

    async def _own_answer(self, event: Event[Any]) -> None:
        """Base vectors that the router asked for."""
        data = event.data
        id = event.causation_id or ""
        if isinstance(data, EncodeFailed):
            self.dispatcher.refused(id, data)
            return
        try:
            vectors = from_stream(event.attachments[0])
        except (AttachmentError, IndexError) as error:
            self.dispatcher.refused(
                id,
                EncodeFailed(request_id=data.request_id, code="internal", message=str(error)),
            )
            return
        self.dispatcher.answered(id, Answer(vectors, address_of(event.source)))

    async def _tick(self) -> None:
        """Deadlines and silent workers."""
        ticks = 0
        while True:
            await asyncio.sleep(TICK)
            for entry in await self.dispatcher.tick():
                waited = "its worker" if entry.sent else "a worker"
                if entry.request is not None:
                    await self._refuse(
                        entry.request,
                        Refused("deadline", f"the deadline passed while it waited for {waited}"),
                    )
            self._count()
            ticks += 1
            if ticks % 4 == 0:
                self.counters |= self.meter.counters(time.monotonic())
                self.skills.expire()

    def _count(self) -> None:
        self.counters["reassigned"] = self.dispatcher.reassigned
        self.counters["finished"] = self.dispatcher.finished_texts
        self.counters["skills"] = len(self.skills.directory)
        self.counters["workers"] = len(self.dispatcher.workers)
        self.counters["routers"] = self.siblings.count(time.monotonic())

    # Workers ----------------------------------------------------------------------------------

    async def _beat(self, event: Event[FleetHeartbeat]) -> None:
        data = event.data
        if data.service == "encoder":
            address = address_of(event.source)
            pace = data.counters.get("pace", 0)
            # Of tokens that are all its own a router knows better.
            alone = not self.siblings.others(time.monotonic())
            waiting = 0 if alone else data.counters.get("waiting_tokens", 0)
            change = await self.dispatcher.beat(address, data.pid, data.state, pace, waiting)
            if change is not Change.NONE:
                self.log.info("worker", address=address, change=change.value, pid=data.pid)
        elif data.service == self.name:
            moment = time.monotonic()
            if self.siblings.hear(address_of(event.source), data.state, moment):
                self.log.info("routers", at_work=self.siblings.at_work(moment))
        elif data.service == "adapter_manager" and data.state == "starting":
            # Another process, under the same number too, which it has in every life of a container.
            if self._manager is not None:
                self._manager = 0
        elif data.service == "adapter_manager" and data.state == "ready":
            if self._manager not in (None, data.pid):
                # It reconciled its store with its cards: what it tells now may differ.
                await self.say(SkillListRequested(reply_to=self.address))
            self._manager = data.pid

    async def _adapter(self, event: Event[Any]) -> None:
        workers = self.dispatcher.workers
        note = workers.loaded if isinstance(event.data, AdapterLoaded) else workers.unloaded
        note(event.data.worker, event.data.digest)

    # Skills -----------------------------------------------------------------------------------

    async def _planned(self, event: Event[EncodeRequested], entry: Entry) -> Plan:
        try:
            return await self.planner.plan(event.data, entry.deadline, event.source)
        except Refused as refusal:
            if refusal.code != "unknown_skill" or not await self.hearing.catch_up():
                raise
        return await self.planner.plan(event.data, entry.deadline, event.source)

    async def _ask_for_list(self) -> None:
        await self._send(self.event(SkillListRequested(reply_to=self.address)))

    def _describe(self, card: SkillCard) -> None:
        self._aside(self.skills.describe(card))

    async def _want(self, data: SkillWanted) -> None:
        await self._send(self.event(data))

    async def _embed(self, text: str) -> NDArray[np.float32]:
        """The base vector (dim,) of a skill's description, as a query."""
        held = self.vectors.get("query", text)
        if held is None:
            answer = await self.dispatcher.ask("query", (text,), now() + timedelta(seconds=60))
            self.vectors.put("query", text, answer.vectors[0], answer.worker)
            vector: NDArray[np.float32] = answer.vectors[0]
            return vector
        return held.vector

    # Sending and tasks ------------------------------------------------------------------------

    async def _send(self, event: Event[Any]) -> None:
        try:
            await self.bus.publish(event)
        except BusError as error:
            # Whoever waits for it asks again.
            self.log.warning("not sent", type=event.type, id=event.id, why=str(error))

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside the loops that listen; what it raises is logged, never fatal."""

        async def guarded() -> None:
            try:
                await work
            except Exception:
                self.log.exception("not handled")

        task = asyncio.create_task(guarded())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)


def _deadline(event: Event[EncodeRequested]) -> datetime:
    milliseconds = min(event.data.deadline_ms, LONGEST_MS)
    try:
        return event.time + timedelta(milliseconds=milliseconds)
    except OverflowError as error:
        raise Refused("invalid", f"time is {event.time}: too late for a deadline") from error
