"""The factory's process: takes tasks, schedules heads and bodies, says what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

from bus import BusError, Closed, Delivery
from lora.errors import LoRAError
from lora.model import find_model
from lora.training.errors import TrainingError
from schemas import (
    DomainForgotten,
    Event,
    FeedbackJudged,
    FleetHeartbeat,
    SkillInstalled,
    SkillListed,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    TrainingProgressed,
    TrainingRejected,
    TrainingRequested,
)
from services.errors import EncodeFailedError, ServiceError
from services.factory import feedback, tasks, versions
from services.factory.bench import Bench
from services.factory.errors import MemoryExceeded
from services.factory.feedback import FeedbackStore
from services.factory.lanes import Lanes
from services.factory.material import background, embed, is_passing
from services.factory.process import Progress
from services.factory.publication import Publisher
from services.factory.schedule import body_due
from services.factory.shadow import Shadow
from services.factory.sharing import (
    OUTCOMES,
    VOICE,
    Sharing,
    claims,
    group_of,
    outcomes_since,
    without_claims,
)
from services.factory.spare import Spare
from services.factory.tasks import MAX_FAILURES, Owed, TaskStore
from services.factory.telling import Told
from services.factory.versions import VersionStore
from services.runtime import disk, forgetting
from services.runtime.client import FleetClient
from services.runtime.disk import disk_is_full, waiting_for_room
from services.runtime.forgetting import Forgetting
from services.runtime.handful import Handfuls
from services.runtime.lifeline import command
from services.runtime.service import Context, Service
from services.runtime.shared import card_store
from services.runtime.store import open_store, transaction
from services.runtime.tracing import following

__all__ = ["SkillFactory"]

SKILLS_PATIENCE = 10.0
"""Seconds to wait, at the start, for the manager's list of versions before training begins."""

BEFORE = "distiller"
"""The service whose word is this one's turn to forget a domain."""

RETRY = 2.0
"""Seconds until a phase is tried again; doubles with each failure."""

CHUNK = 64


class SkillFactory(Service):
    """Says `training.progressed`, `training.rejected`, `skill.published` and `skill.retire`."""

    name: ClassVar[str] = "factory"
    keeps: ClassVar[bool] = True

    def __init__(self, context: Context, *, child: Sequence[str] | None = None) -> None:
        """`child`: the words that start the training child; the job's folder is added."""
        super().__init__(context)
        self.counters = {
            "tasks_pending": 0,
            "head_running": 0,
            "body_running": 0,
            "published": 0,
            "rejected": 0,
            "retired": 0,
        }
        own = command("services.factory.child")
        self._child = tuple(child) if child else own
        threads = self.settings.factory.thread_count
        self._spare = None if child else Spare(own, threads=threads)
        self._client = FleetClient(self.bus)
        self._changed = asyncio.Event()
        self._fresh = asyncio.Event()
        self._later = asyncio.Event()
        self._judged: set[str] | None = None
        """Domains of feedback since versions were looked at; None: all, at the start."""
        self._known = asyncio.Event()
        self._verdict = asyncio.Lock()
        """Held while a verdict is concluded: two versions of a skill never get one number."""
        self._looking = asyncio.Lock()
        """Held while versions are compared on their later feedback."""
        self._opened = False
        self._sharing = Sharing(self.address)
        self._to_adopt = True

    @property
    def queue(self) -> int:
        """Phases of tasks that are still to be done."""
        return int(self.counters["tasks_pending"])

    async def setup(self) -> None:
        """Open the store, know the model, take tasks; what was half done is begun again."""
        model = await asyncio.to_thread(find_model, self.settings.fleet.model)
        folder = self.state.of(self.name)
        self._file = open_store(
            folder / "factory.sqlite",
            tasks.SCHEMA + versions.SCHEMA + feedback.SCHEMA + forgetting.SCHEMA,
        )
        self._opened = True
        settings = self.settings.factory

        def due(since: float, arrived: float) -> float | None:
            found = body_due(settings, since, arrived)
            return None if found is None else found.first

        self._ledger = TaskStore(self._file, VOICE, due)
        self._lanes = Lanes(
            self._ledger,
            settings,
            lambda skill: self._sharing.may_begin(skill, time.monotonic()),
        )
        self._versions = VersionStore(self._file, self.state.of(f"{self.name}/versions"))
        self._feedback = FeedbackStore(self._file)
        self._feedback.serves(model.base_model.sha256)
        self._versions.serves(model.base_model.sha256)
        self._sha256 = model.base_model.sha256
        self._bench = Bench(
            folder / "jobs",
            self.settings,
            self.state,
            self._versions,
            self._feedback,
            self._child,
            self._spare,
        )
        self._ledger.reschedule()
        self._bench.tidy({owed.key for owed in self._ledger.owed()})
        self._versions.tidy()
        self._shadow = Shadow(
            self._client,
            self._versions,
            self._feedback,
            settings.seed,
            VOICE,
            settings.shadow_min,
            self.settings.router.description_threshold,
        )
        self._publisher = Publisher(
            self._file,
            self._ledger,
            self._versions,
            settings,
            card_store(self.settings.store, self.state),
            VOICE,
        )
        self._forgetting = Forgetting(
            self, self._file, after=BEFORE, erase=self._erase, quiet=self._quiet
        )
        await self._forgetting.catch_up()
        await self.listen(FleetHeartbeat, self._beat)
        await self.listen(OUTCOMES, self._heed)
        await self.listen((SkillInstalled, SkillRetired, SkillRejected), self._hear_of_skill)
        await self.listen(SkillListed, self._list, to=self.address)
        self.spawn(self._ask_skills(), "ask skills")
        self.spawn(self._fill(), "fill in vectors")
        self.spawn(self._schedule(), "schedule")
        self.spawn(self._watch_versions(), "watch versions")
        kinds = (TrainingRequested, FeedbackJudged, DomainForgotten)
        handler = waiting_for_room(self._take, self.log)
        group = group_of(self.instance)
        await Handfuls(self, kinds, handler, most=CHUNK, group=group).start()

    async def drain(self) -> None:
        """End the children: what they were at is owed still, and begun again next time."""
        if self._opened:
            await self._lanes.stop()
        if self._spare is not None:
            await self._spare.aclose()

    async def aclose(self) -> None:
        """Stop, and close the store."""
        await super().aclose()
        if self._opened:
            self._file.close()

    # -- what comes in

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Copy what came, then acknowledge all of it at once: no task waits behind feedback."""
        left = await self._forgetting.heed(deliveries)
        for delivery in deliveries:
            if delivery not in left and isinstance(delivery.event.data, TrainingRequested):
                self._ledger.refuse(delivery.event, time.time())
        events = [delivery.event for delivery in left]
        pieces = [event for event in events if isinstance(event.data, FeedbackJudged)]
        self._feedback.keep([(event.data, event.time.timestamp()) for event in pieces])
        for event in events:
            if isinstance(event.data, TrainingRequested):
                self._lanes.surpass(event.data)
                mine = self._sharing.is_mine(event.data.skill, time.monotonic())
                self._ledger.admit(event, time.time(), self._lanes.running, mine=mine)
        said = self._ledger.outbox()
        await self.bus.ack(deliveries, publish=said)
        self._have_said(said)
        if len(pieces) < len(events):
            self._changed.set()
        if pieces:
            if self._spare is not None:
                self._spare.expect()
            self._fresh.set()
            if self._judged is not None:
                self._judged |= {event.data.domain for event in pieces}
            self._later.set()

    async def _hear_of_skill(self, event: Event[Any]) -> None:
        data = event.data
        if isinstance(data, SkillInstalled):
            self._versions.learn(data.card, time.time(), cause=event)
        else:
            self._versions.forget(data.name, data.digest)

    async def _beat(self, event: Event[FleetHeartbeat]) -> None:
        moment = time.monotonic()
        if event.data.service != self.name:  # who fell silent is known by nobody's word
            changed = self._sharing.look(moment)
        else:
            changed = self._sharing.hear(event, moment)
        if changed:
            self._to_adopt = True
            self._changed.set()

    async def _heed(self, event: Event[SkillPublished | TrainingRejected]) -> None:
        """What became of a task, whichever factory had it."""
        data = event.data
        if data.task_id is None:
            return
        if isinstance(data, SkillPublished):
            self._versions.note(event, event.time.timestamp())
        ended = self._ledger.heed(data)
        if ended is not None:
            self._lanes.let_go(ended)
            self._bench.clear(ended)
            self._changed.set()

    async def _ask_skills(self) -> None:
        asked = time.monotonic()
        while True:
            try:
                # The answer, in one part or many, is heard by `_list`.
                await self._client.skills(timeout=SKILLS_PATIENCE / 2)
                self._known.set()
                return
            except Closed:
                return
            except BusError as error:
                self.log.debug("versions not listed yet", why=str(error))
                if time.monotonic() - asked >= SKILLS_PATIENCE:
                    self._known.set()
                await asyncio.sleep(RETRY)

    async def _list(self, event: Event[SkillListed]) -> None:
        for card in event.data.cards:
            # What a peer sent in vain takes no number, whoever it says has made it.
            if card.state != "rejected" or card.peer is None:
                self._versions.learn(card, time.time())
            if card.state not in ("installed", "kept"):
                self._versions.forget(card.name, card.digest)

    async def _fill(self) -> None:
        """Fetch the vectors that trainings need, ahead of time and a few at a time."""
        folder = self.state.of(self.name)
        while True:
            self._fresh.clear()
            try:
                await background(self._client, folder, self._sha256)
                while missing := self._feedback.without_vector(CHUNK):
                    vectors = await embed(self._client, missing)
                    self._feedback.keep_vectors(dict(zip(missing, vectors, strict=True)))
            except Closed:
                raise
            except (BusError, EncodeFailedError) as error:
                self.log.debug("vectors not fetched yet", why=str(error))
                await asyncio.sleep(RETRY)
                continue
            await self._fresh.wait()

    # -- the two lanes: heads, and beside them bodies

    async def _schedule(self) -> None:
        await self._known.wait()
        while True:
            self._changed.clear()
            pause = await self._say_all()
            unsettled = self._sharing.unsettled(time.monotonic())
            if unsettled:
                pause = unsettled if pause is None else min(pause, unsettled)
            elif self._to_adopt:
                self._adopt()
            for phase in ("head", "body"):
                owed, look = self._lanes.next(phase, time.time())
                if owed is not None:
                    work = self.spawn(self._run(owed), f"{phase} {owed.task.skill}")
                    self._lanes.enter(owed, work)
                elif look is not None:
                    wait = max(0.0, look - time.time())
                    pause = wait if pause is None else min(pause, wait)
            self._count()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    def _adopt(self) -> None:
        """Skills may have been another factory's, or its task was in training when this process
        ended and a newer one came: that one lives on; a body whose turn it was goes on."""
        self._to_adopt = False
        running = self._lanes.running
        for owed in self._ledger.owed():
            if (
                (owed.number, owed.phase) not in running
                and self._ledger.has_newer(owed)
                and self._sharing.may_begin(owed.task.skill, time.monotonic())
                and not (owed.phase == "body" and self._lanes.is_firm(owed, time.time()))
            ):
                self._ledger.supersede(owed)
                self._bench.clear(owed)

    async def _run(self, owed: Owed) -> None:
        try:
            with following(owed.event):
                await self._tried(owed)
        finally:
            if not self._lanes.leave(owed):
                self._bench.clear(owed)  # it gave way
            self._changed.set()

    async def _tried(self, owed: Owed) -> None:
        try:
            # Another factory may have ended it while this one was away.
            await outcomes_since(self.bus, owed, self._heed)
            await self._train(owed)
        except Closed:
            raise
        except Exception as error:
            self._not_trained(owed, error)

    def _not_trained(self, owed: Owed, error: Exception) -> None:
        skill = owed.task.skill
        if is_passing(error):
            self.log.info("training waits for the fleet", skill=skill, why=str(error))
            self._ledger.postpone(owed, time.time() + RETRY)
            return
        if disk_is_full(error, self.state.of(self.name)):
            self.log.error("the disk is full: training waits", skill=skill, why=str(error))
            self._bench.clear(owed)
            self._ledger.postpone(owed, time.time() + disk.PATIENCE)
            return
        expected = isinstance(error, ServiceError | LoRAError | TrainingError | OSError)
        self.log.warning("training failed", skill=skill, why=str(error), exc_info=not expected)
        if self._ledger.has_newer(owed):
            self._ledger.supersede(owed)
            self._bench.clear(owed)
        elif isinstance(error, MemoryExceeded) and not owed.shrunk:
            self._bench.clear(owed)
            self._ledger.postpone(owed, time.time(), shrunk=True)
        elif not isinstance(error, MemoryExceeded) and owed.failures + 1 < MAX_FAILURES:
            if owed.failures:
                self._bench.clear(owed)  # what it would go on from may be what it fails of
            self._ledger.postpone(owed, time.time() + RETRY * 2**owed.failures, failed=True)
        else:
            self._publisher.give_up(owed, str(error) or type(error).__name__)
            self._bench.clear(owed)

    async def _train(self, owed: Owed) -> None:
        told = Told(self.log, owed)

        async def heard(progress: Progress) -> None:
            told.step()
            data = TrainingProgressed(
                task_id=owed.task.task_id,
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                phase=progress.phase,
            )
            with contextlib.suppress(BusError):
                await self.say(data)

        with told.training():
            made = await background(self._client, self.state.of(self.name), self._sha256)
            attempts = self._ledger.attempts(owed.task.skill)
            done = await self._bench.train(owed, self._client, made, attempts, heard)
        async with self._verdict:
            with told.verdict(done) as owed:
                if self._bench.outdated(owed, done):
                    self._publisher.outdated(owed)
                else:
                    await self._publisher.conclude(owed, done)
                    if owed.phase == "head" and done.result.accepted:
                        self._lanes.outdate(owed)
        self._bench.clear(owed)

    # -- a domain that is to be forgotten

    @contextlib.asynccontextmanager
    async def _quiet(self, domain: str) -> AsyncIterator[None]:
        """Nothing of its skill is in training, nor about to be published."""
        async with self._looking, self._verdict, self._lanes.without(domain):
            yield
        self._changed.set()

    def _erase(self, domain: str) -> int:
        erased = self._ledger.forget(domain) + self._feedback.forget(domain)
        self._versions.look_from_the_start(domain)
        self._bench.tidy({owed.key for owed in self._ledger.owed()})
        return erased

    # -- what goes out

    async def _say_all(self) -> float | None:
        """Publish the outbox; seconds until it should be tried again where that failed."""
        said = self._ledger.outbox()
        if said:
            if not await self.publish_outbox(said):
                return RETRY
            self._have_said(said)
        return None

    def _have_said(self, events: Sequence[Event[Any]]) -> None:
        self._ledger.said(events)
        for event in events:
            name = {"skill.published": "published", "training.rejected": "rejected"}
            if counter := name.get(event.type):
                self.counters[counter] += 1

    def _count(self) -> None:
        moment = time.monotonic()
        owed = [it for it in self._ledger.owed() if self._sharing.is_mine(it.task.skill, moment)]
        self.counters = without_claims(self.counters) | claims(self._lanes.skills)
        self.counters["tasks_pending"] = len(owed)
        for phase in ("head", "body"):
            self.counters[f"{phase}_running"] = int(phase in self._lanes)

    # -- versions in the shadow of their predecessors

    async def _watch_versions(self) -> None:
        while True:
            looked, self._judged = self._judged, set()
            for skill in self._versions.skills() if looked is None else sorted(looked):
                if not self._sharing.is_mine(skill, time.monotonic()):
                    continue
                while (order := await self._look(skill)) is not None:
                    with transaction(self._file):
                        self._versions.forget(skill, order.data.digest)
                        self._versions.look_anew(skill, order.data.digest)
                        self._ledger.say(order)
                    self.counters["retired"] += 1
                    self._changed.set()
            await self._later.wait()
            self._later.clear()

    async def _look(self, skill: str) -> Event[SkillRetire] | None:
        async with self._looking:
            return await self._shadow.look(skill)
