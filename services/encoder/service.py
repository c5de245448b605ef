"""The encoder: takes assignments, batches their rows, answers with vectors."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from bus import BusError
from lora.card import LoRACard
from lora.errors import LoRAError
from schemas import (
    AdapterFailed,
    AdapterLoad,
    AdapterLoaded,
    AdapterUnload,
    AdapterUnloaded,
    EncodeAssigned,
    Event,
    now,
)
from services.encoder import answers
from services.encoder.allocator import keep_freed_memory
from services.encoder.batcher import LEAST, Batch, Batcher, Job, Row
from services.encoder.cache import RecentAnswers, VectorCache
from services.encoder.errors import EncoderError, PinRefusedError, SkillFileError, SkillStoreError
from services.encoder.hand import Done, Hand, Key, key_of
from services.encoder.loading import load_engine
from services.encoder.pace import Pace
from services.encoder.passes import Outcome, compute
from services.encoder.shelf import Placed, Shelf
from services.encoder.tally import Tally
from services.encoder.telling import Teller
from services.runtime.service import Context, Service
from services.runtime.shared import card_store
from services.runtime.tracing import following

if TYPE_CHECKING:
    from lora.engine import ArrowEngine

__all__ = ["EncoderService"]

ANSWER_SECONDS: Final = 30.0
"""How long an answer is kept for a client that asks again."""

ANSWER_BYTES: Final = 16 << 20

TURN: Final = 0.0005
"""Seconds for which one of the process's threads keeps the interpreter from another."""

FEW_CHARACTERS: Final = 4096
"""Texts of so many characters are tokenised on the loop, more of them in another thread."""

COUNTED: Final = (
    *("batches", "mixed_batches", "tokens", "texts", "cache_hits", "dim"),
    *("cards", "pinned", "pins_refused", "pace", "waiting_tokens"),
)
"""What is counted here; the rest of the counters is the tally's."""

T = TypeVar("T")


def _few(texts: Sequence[str]) -> bool:
    return sum(map(len, texts)) <= FEW_CHARACTERS


class EncoderService(Service):
    """One model, one thread that computes, an event loop that stays free."""

    name: ClassVar[str] = "encoder"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        own = self.settings.encoder
        self.batcher = Batcher(own.batch_tokens, self.settings.router.max_wait)
        self.pace = Pace(own.batch_tokens // LEAST)
        self.cache = VectorCache(own.cache_entries)
        self.recent: RecentAnswers[Key] = RecentAnswers(ANSWER_SECONDS, ANSWER_BYTES)
        self.engine: ArrowEngine
        self.shelf: Shelf
        self.hand = Hand()
        self._waiting = asyncio.Event()
        self._side: set[asyncio.Task[None]] = set()
        # Torch runs in one thread only; files are opened and verified in others.
        self._torch = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._files = ThreadPoolExecutor(2, thread_name_prefix="cards")
        self.counters = dict.fromkeys(COUNTED, 0)
        self.tally = Tally()
        self._teller = Teller(self.log)
        self._refused: set[str] = set()
        """Cards that were to be kept and could not be."""

    @property
    def queue(self) -> int:
        """Texts that wait for a batch."""
        return len(self.batcher)

    async def setup(self) -> None:
        """Load the model, then listen."""
        # The thread that computes needs the interpreter a thousand times a batch, for a moment each
        # time; at the usual 5 ms a turn it may wait for the loop as often.
        sys.setswitchinterval(TURN)
        keep_freed_memory()
        try:
            self.engine = await self._in(self._torch, self._load)
        except LoRAError as error:
            raise EncoderError(f"the model cannot be used: {error}") from error
        self.counters["dim"] = self.engine.dim
        self.counters["pace"] = round(self.pace.rate)
        self.shelf = Shelf(
            card_store(self.settings.store, self.state),
            self.engine,
            self.settings.encoder.card_budget_bytes,
            self._files,
            self._placed,
        )
        self.spawn(self._compute(), "compute")
        await self.listen(EncodeAssigned, self._assigned, to=self.address)
        await self.listen((AdapterLoad, AdapterUnload), self._hinted, to=self.address)

    async def drain(self) -> None:
        """Answer what is in hand."""
        await self.hand.empty.wait()

    async def aclose(self) -> None:
        """Stop the threads; a batch under way ends first, a model that still loads does not."""
        for task in self._side:
            task.cancel()
        await asyncio.gather(*self._side, return_exceptions=True)
        await super().aclose()
        self._files.shutdown(wait=False, cancel_futures=True)
        loaded = hasattr(self, "engine")
        await asyncio.to_thread(self._torch.shutdown, wait=loaded, cancel_futures=True)

    def _load(self) -> ArrowEngine:
        return load_engine(self.settings, self.state.of("encoder") / "notes", self.pace)

    # Assignments ------------------------------------------------------------------------------

    async def _assigned(self, event: Event[EncodeAssigned]) -> None:
        key = key_of(event.data)
        if key in self.hand:
            self.hand.again(key, event.data.router)
            return
        answered = self.recent.get(key, time.monotonic())
        if answered is not None:
            client, words = answers.parted(answered)
            await self.bus.publish(*client, *answers.told_to(event.data.router, words))
            return
        self.hand.take(key, event)
        received = time.monotonic()
        here = all(skill.digest in self.shelf for skill in event.data.skills)
        if here and _few(event.data.texts):
            await self._admit(event, received)
        else:  # what has to wait for another thread holds up nobody
            self._aside(self._admit(event, received))

    async def _admit(self, event: Event[EncodeAssigned], received: float) -> None:
        """Get the cards, then let the request wait for its batch."""
        data = event.data
        try:
            cards = [await self.shelf.get(skill.digest) for skill in data.skills]
            stacks = tuple(tuple(cards[i] for i, _ in row.skills) for row in data.rows)
            if len(stacks) != len(data.texts):
                raise EncoderError(f"{len(data.texts)} texts were assigned {len(stacks)} rows")
            ids = await self._tokens(data, stacks)
        except SkillFileError as error:
            code = "unknown_skill" if error.missing else "internal"
            await self._fail(event, code, f"{self.address} cannot apply the skill: {error}")
        except (EncoderError, IndexError) as error:
            await self._fail(event, "internal", f"the assignment makes no sense: {error}")
        except Exception as error:  # or it would be in hand for ever, and nobody told
            with following(event):
                self.log.exception("request not admitted", id=data.request_id)
            await self._fail(event, "internal", f"{type(error).__name__}: {error}")
        else:
            lengths = tuple(len(made) or 1 for made in ids)
            self.batcher.add(Job(event, stacks, lengths, received, ids))
            self.counters["waiting_tokens"] = self.batcher.tokens
            self._waiting.set()

    async def _tokens(
        self, data: EncodeAssigned, stacks: tuple[tuple[LoRACard, ...], ...]
    ) -> tuple[Sequence[int], ...]:
        """The tokens of each text, none where its vector is known and will do."""
        needed = [
            place
            for place, (text, stack) in enumerate(zip(data.texts, stacks, strict=True))
            if (data.role, text) not in self.cache or any(card.body for card in stack)
        ]
        texts = [data.texts[place] for place in needed]

        def tokenize() -> Sequence[Sequence[int]]:
            return self.engine.tokenize(texts, role=data.role)

        # A few take less time than it takes to ask another thread.
        made = tokenize() if _few(texts) else await self._in(self._files, tokenize)
        found: list[Sequence[int]] = [()] * len(data.texts)
        for place, ids in zip(needed, made, strict=True):
            found[place] = ids
        return tuple(found)

    # Batches ----------------------------------------------------------------------------------

    async def _compute(self) -> None:
        """One batch after another, as long as there are any; no timer."""
        while True:
            await self._waiting.wait()
            batch = self.batcher.take(now(), time.monotonic())
            self.counters["waiting_tokens"] = self.batcher.tokens
            for job in batch.expired:
                self._teller.failed(job.event, "deadline")
            await self._off_hand([self._late(job) for job in batch.expired])
            for job in batch.stuck:
                await self._put_off(job)
            if not batch.rows:
                self._waiting.clear()
                continue
            for job in batch.jobs:
                job.started = job.started or time.monotonic()
            whole = await self._computed(batch)
            # Answers go out while the next batch is computed.
            self._aside(self._answer(whole))

    async def _computed(self, batch: Batch) -> list[Job]:
        """Compute a batch; the requests that are whole now. One that fails spoils no other."""
        broken: list[Job] = []
        try:
            await self._pass(batch.rows)
        except Exception as error:
            if len(batch.jobs) == 1:
                broken.append(await self._spoiled(batch.jobs[0], error))
            else:
                self.log.warning("a batch failed; its requests are computed alone", why=str(error))
                for job in batch.jobs:
                    try:
                        await self._pass(tuple(row for row in batch.rows if row.job is job))
                    except Exception as alone:
                        broken.append(await self._spoiled(job, alone))
        self.counters["batches"] += 1
        self.counters["mixed_batches"] += batch.mixed
        self.counters["cache_hits"] = self.cache.hits
        self.tally.batch(len(batch.rows))
        return [job for job in batch.jobs if job.left == 0 and job not in broken]

    async def _pass(self, rows: tuple[Row, ...]) -> None:
        started = time.monotonic()
        outcome: Outcome = await self._in(
            self._torch, lambda: compute(self.engine, self.cache, rows)
        )
        took = time.monotonic() - started
        self.pace.computed(outcome.tokens, took)
        for row, known in zip(rows, outcome.rows, strict=True):
            row.job.put(row.place, known.vector, known.tokens)
        for job in {id(row.job): row.job for row in rows}.values():
            job.compute += took
        self.counters["tokens"] += outcome.tokens
        self.counters["pace"] = round(self.pace.rate)
        self.counters["texts"] += len(rows)

    async def _spoiled(self, job: Job, error: Exception) -> Job:
        self.batcher.remove([job])
        if not isinstance(error, LoRAError):
            with following(job.event):
                self.log.error("a request failed", id=job.data.request_id, exc_info=error)
        await self._fail(job.event, "internal", f"{type(error).__name__}: {error}")
        return job

    # Answers ----------------------------------------------------------------------------------

    async def _answer(self, jobs: Iterable[Job]) -> None:
        done: list[Done] = []
        try:
            for job in jobs:
                events = answers.completed(
                    job,
                    source=self.source,
                    worker=self.address,
                    model=self.engine.base_model.id,
                    dim=self.engine.dim,
                )
                key = key_of(job.data)
                self.recent.keep(key, events, time.monotonic())
                self.tally.answered(job)
                self._teller.answered(job)
                client, words = answers.parted(events)
                done.append(Done(key, job.event, words))
                await self._publish(job.event, client)
        finally:
            await self._off_hand(done)
        self._count()

    def _late(self, job: Job) -> Done:
        word = answers.expired(job.event, source=self.source, worker=self.address)
        return Done(key_of(job.data), job.event, [word])

    async def _put_off(self, job: Job) -> None:
        """It waits behind others of its own client: they were let in before it was known how many
        clients there would be."""
        patience = self.settings.router.max_wait
        self._teller.failed(job.event, "overloaded")
        told = answers.failed(
            job.event,
            "overloaded",
            f"it has waited for {patience:g} s behind other requests of this client",
            source=self.source,
            worker=self.address,
            retry_after_ms=int(1000 * patience),
        )
        await self._send(job.event, told)

    async def _fail(self, event: Event[EncodeAssigned], code: str, message: str) -> None:
        self._teller.failed(event, code)
        await self._send(
            event,
            answers.failed(event, code, message, source=self.source, worker=self.address),
        )

    async def _send(self, event: Event[EncodeAssigned], events: tuple[Event[Any], ...]) -> None:
        client, words = answers.parted(events)
        try:
            await self._publish(event, client)
        finally:
            await self._off_hand([Done(key_of(event.data), event, words)])

    async def _off_hand(self, done: Sequence[Done]) -> None:
        """Tell the routers of assignments that are over."""
        if not done:
            return
        try:
            words = self.hand.words(done, self.settings.bus.max_event_bytes)
            await self._publish(done[0].event, words)
        finally:
            self.hand.put_down(done)

    async def _publish(self, event: Event[EncodeAssigned], events: Sequence[Event[Any]]) -> None:
        try:
            await self.bus.publish(*events)
        except BusError as error:
            # The client asks again, and is answered from what is kept.
            with following(event):
                self.log.warning("answer not sent", id=event.data.request_id, why=str(error))

    # Cards ------------------------------------------------------------------------------------

    async def _hinted(self, event: Event[Any]) -> None:
        loads = isinstance(event.data, AdapterLoad)
        self._aside(self._load_card(event) if loads else self._unload_card(event))

    async def _load_card(self, event: Event[AdapterLoad]) -> None:
        digest, started = event.data.digest, time.monotonic()
        if event.data.pin is False:
            self._refused.discard(digest)
            await self.shelf.unpin(digest)
            self._count()
            return
        try:
            if event.data.pin:
                card = await self.shelf.pin(digest)
                self._refused.discard(digest)
                self._count()
            else:
                card = await self.shelf.get(digest)
        except SkillStoreError as error:  # no word against the card: another encoder is asked
            self.log.warning("card not to be had", digest=digest, why=str(error))
            return
        except Exception as error:  # whatever it is, who asked is told
            expected = isinstance(error, SkillFileError | PinRefusedError | LoRAError)
            (self.log.warning if expected else self.log.exception)(
                "card not loaded", digest=digest, why=str(error)
            )
            if event.data.pin:
                self._refused.add(digest)
                self._count()
            report = AdapterFailed(
                worker=self.address,
                digest=digest,
                milliseconds=(time.monotonic() - started) * 1000,
                bytes=0,
                message=str(error),
            )
            await self.bus.publish(event.derive(report, source=self.source))
            return
        loaded = AdapterLoaded(
            worker=self.address,
            digest=digest,
            milliseconds=(time.monotonic() - started) * 1000,
            bytes=card.bytes or 0,
        )
        await self.bus.publish(event.derive(loaded, source=self.source))

    async def _unload_card(self, event: Event[AdapterUnload]) -> None:
        started = time.monotonic()
        card = await self.shelf.put_back(event.data.digest)
        self.tally.gone([event.data.digest])
        self._refused.discard(event.data.digest)
        self._count()
        if card is not None:
            await self._let_go(card, (time.monotonic() - started) * 1000)

    async def _placed(self, placed: Placed) -> None:
        """A card came onto the shelf, by a hint or because a request needed it."""
        self.tally.placed(placed.card.key, placed.card.bytes or 0)
        self.tally.gone(card.key for card in placed.left)
        self._count()
        self._teller.mapped(placed)
        loaded = AdapterLoaded(
            worker=self.address,
            digest=placed.card.key,
            milliseconds=placed.milliseconds,
            bytes=placed.card.bytes or 0,
        )
        with contextlib.suppress(BusError):  # told again with the next hint
            await self.say(loaded)
        for card in placed.left:
            await self._let_go(card, 0.0)

    async def _let_go(self, card: LoRACard, milliseconds: float) -> None:
        self._teller.gone(card.key)
        unloaded = AdapterUnloaded(
            worker=self.address,
            digest=card.key,
            milliseconds=milliseconds,
            bytes=card.bytes or 0,
        )
        with contextlib.suppress(BusError):
            await self.say(unloaded)

    def _count(self) -> None:
        self.counters["cards"] = len(self.shelf)
        self.counters["pinned"] = self.shelf.pinned
        self.counters["pins_refused"] = len(self._refused)
        counted = {name: self.counters[name] for name in COUNTED}
        self.counters = counted | self.tally.counters()

    # Threads and tasks ------------------------------------------------------------------------

    async def _in(self, executor: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    def _aside(self, work: Any) -> None:
        """Run beside the loop that listens; what it raises is logged, never fatal."""

        async def guarded() -> None:
            try:
                await work
            except BusError as error:
                self.log.warning("not told", why=str(error))
            except Exception:
                self.log.exception("not handled")

        task = asyncio.create_task(guarded())
        self._side.add(task)
        task.add_done_callback(self._side.discard)
