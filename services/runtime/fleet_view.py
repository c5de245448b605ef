"""What a fleet is doing, gathered from its bus alone; by the API, and by the command line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from bus import Bus, BusError, Closed, NotPermitted, Subscription
from schemas import (
    AdapterLoaded,
    AdapterUnloaded,
    BaseModelRef,
    DomainForgotten,
    Event,
    FeedbackJudged,
    FleetHeartbeat,
    LearningEvent,
    PeerJoined,
    PeerLeft,
    SkillDiscovered,
    SkillInstalled,
    SkillPin,
    SkillPublished,
    SkillRejected,
    SkillRetired,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
    now,
)
from services.runtime.client import FleetClient
from services.runtime.fleet_view_loop import Loop
from services.runtime.fleet_view_processes import Processes, Requests
from services.runtime.fleet_view_skills import OFFERED, Peers, Skills
from services.runtime.fleet_view_status import JournalStatus, ModelStatus, Status
from services.runtime.fleet_view_tail import tail

__all__ = ["FleetView"]

LIVE: Final = (
    FleetHeartbeat,
    TrainingProgressed,
    AdapterLoaded,
    AdapterUnloaded,
    PeerJoined,
    PeerLeft,
    SkillDiscovered,
)
VERDICTS: Final = (SkillPublished, TrainingRejected)
DURABLE: Final = (
    *VERDICTS,
    TrainingRequested,
    SkillInstalled,
    SkillRetired,
    SkillRejected,
    SkillPin,
    FeedbackJudged,
    LearningEvent,
    DomainForgotten,
)

WITH_TEXTS: Final = (FeedbackJudged, LearningEvent)
"""Those that hold what people wrote."""
REMEMBERED: Final = 200
"""Verdicts of the past that a view begins with, of all domains together."""

TASKS: Final = 64
"""Tasks of the past of which it knows the domain: their progress may be told now."""

ROUND: Final = 2.2
"""Seconds within which every process has said that it is alive, once."""

PATIENCE: Final = 10.0
"""Seconds for which the manager's list is waited for before it is asked for again."""

PAUSE: Final = 1.0
"""Seconds between two attempts that the bus refused."""

_log = logging.getLogger(__name__)


class FleetView:
    """`async with FleetView(bus) as view: view.snapshot()`; bounded however long it looks.

    What heartbeats, the manager's list and the journal tell again is complete soon after the
    start; the history of requests begins with the view. The bus stays the caller's.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        model: BaseModelRef | None = None,
        offered: float = OFFERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`model`: what the fleet serves, where the caller knows it; `offered`: seconds for which
        a peer's offer holds that is not repeated; `clock`: monotonic seconds."""
        self._bus = bus
        self._client = FleetClient(bus)
        self._model = model
        self._clock = clock
        self._since = now()
        self._began = clock()
        self._processes = Processes()
        self._requests = Requests(self._since.timestamp())
        self._loop = Loop()
        self._skills = Skills()
        self._peers = Peers(offered)
        self._heads: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listed = asyncio.Event()
        self._beaten = asyncio.Event()
        """The broker has said that it is alive."""
        self._relist = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen, and learn from the journal what was; raises `bus.BusError` where it is away."""
        self._heads = dict(await self._bus.heads())
        head = max(self._heads.values(), default=0)
        events = self._bus.watch((*LIVE, *DURABLE), after=head)
        try:
            await events.__aenter__()
        except NotPermitted:  # a key that hears no texts; what is learned, heartbeats count
            public = tuple(kind for kind in (*LIVE, *DURABLE) if kind not in WITH_TEXTS)
            events = self._bus.watch(public, after=head)
            await events.__aenter__()
        try:
            past = [
                *await tail(self._bus, VERDICTS, REMEMBERED, head=head),
                *await tail(self._bus, (TrainingRequested,), TASKS, head=head),
            ]
        except BaseException:
            await events.__aexit__(None, None, None)
            raise
        for event in sorted(past, key=lambda event: event.sequence or 0):
            self._loop.hear(event, self._clock())
        self._spawn(self._listen(events), "listen")
        self._spawn(self._list(), "list")

    async def aclose(self) -> None:
        """Listen no more; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self, seconds: float) -> bool:
        """Wait until every kind of fact is in, at most so long; whether all were.

        That takes one round of heartbeats, some two seconds, and the manager's list.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._beaten.wait()
                await asyncio.sleep(max(0.0, self._began + ROUND - self._clock()))
                await self._listed.wait()
        except TimeoutError:
            return False
        return True

    def snapshot(self) -> Status:
        """What the fleet is doing now."""
        at, moment = self._clock(), now()
        encoders = self._encoders(at)
        return Status(
            time=moment,
            since=self._since,
            model=self._model_of(encoders),
            processes=self._processes.snapshot(at),
            requests=self._requests.snapshot(self._wall(at)),
            loop=self._loop.snapshot(at),
            skills=self._skills.snapshot(),
            peers=self._peers.snapshot(at),
            journal=JournalStatus(
                sequence=max(self._heads.values(), default=0), heads=self.heads()
            ),
        )

    def beats(self) -> list[FleetHeartbeat]:
        """The last heartbeat of every process that is alive, as it was said."""
        return self._processes.alive(self._clock())

    def heads(self) -> dict[str, int]:
        """The last sequence of every durable type, as far as it is known here."""
        return dict(self._heads)

    # What is heard -----------------------------------------------------------------------------

    async def _listen(self, events: Subscription) -> None:
        try:
            async for event in events:
                try:
                    self._hear(event)
                except Exception:
                    _log.exception("event %s %s not shown", event.type, event.id)
        finally:
            await events.__aexit__(None, None, None)

    def _hear(self, event: Event[Any]) -> None:
        at = self._clock()
        if event.sequence is not None:
            self._heads[event.type] = max(event.sequence, self._heads.get(event.type, 0))
        if isinstance(event.data, FleetHeartbeat):
            self._beat(event.data, at)
            return
        self._loop.hear(event, at)
        self._skills.hear(event)
        self._peers.hear(event, at)

    def _beat(self, data: FleetHeartbeat, at: float) -> None:
        another = self._processes.hear(data, at)
        if data.service == "broker" and data.heads is not None:
            if another:  # its journal may be another, too
                self._heads = {}
            for kind, head in data.heads.items():  # a beat may be older than what was heard since
                self._heads[kind] = max(head, self._heads.get(kind, 0))
            self._beaten.set()
            self._encoders(at)  # so that nothing gathers where nobody looks
        elif data.service == "router":
            self._requests.hear(data, self._wall(at))
        elif data.service == "adapter_manager" and another:
            self._relist.set()  # it put its table in order: what it lists may differ
        elif data.service == "federation" and (another or data.state == "stopped"):
            self._peers.forget()
        self._loop.beat(data, at)
        self._skills.beat(data)

    async def _list(self) -> None:
        """Ask the manager for its list, now and whenever it is another process."""
        while True:
            self._relist.clear()
            try:
                self._skills.listed(await self._client.skills(timeout=PATIENCE))
            except Closed:
                return
            except BusError as error:
                _log.debug("skills not listed yet: %s", error)
                await asyncio.sleep(PAUSE)
                continue
            self._listed.set()
            await self._relist.wait()

    # What is told -------------------------------------------------------------------------------

    def _model_of(self, encoders: list[FleetHeartbeat]) -> ModelStatus | None:
        model = self._model or self._skills.model() or self._loop.model
        if model is None:
            return None
        dims = [int(beat.counters.get("dim", 0)) for beat in encoders]
        return ModelStatus(id=model.id, sha256=model.sha256, dim=max(dims, default=0) or None)

    def _encoders(self, at: float) -> list[FleetHeartbeat]:
        """Those that are alive; what others had mapped is forgotten."""
        encoders = self._processes.alive(at, "encoder")
        self._skills.alive(f"encoder-{beat.instance}" for beat in encoders)
        return encoders

    def _wall(self, at: float) -> float:
        """Seconds since the epoch that no change of the clock disturbs."""
        return self._since.timestamp() + at - self._began

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"fleet view: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
