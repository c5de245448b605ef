"""The journal's thread: it alone touches SQLite, and commits in groups.

While one group is being fsynced the next one gathers: nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from bus.errors import BusError, Closed, Damaged, DiskFull
from bus.journal.journal import Journal, Stored

__all__ = ["Committed", "Operation", "Writer"]

_log = logging.getLogger(__name__)

GROUP = 1_000
GROUP_BYTES = 8 * 2**20

Done = Callable[[Any], None]
"""Called in the event loop with the result, or with the `BusError` that came instead."""


class Operation(NamedTuple):
    """Something to do to the journal, whom to tell, and its weight in bytes."""

    run: Callable[[Journal], Any]
    done: Done
    size: int


class Committed(NamedTuple):
    """What one group did."""

    results: list[tuple[Done, Any]]
    events: list[Stored]
    next_due: float | None
    due_changed: bool
    freed: bool
    """Whether something became due at once."""
    size: int
    failure: BusError | None
    wrote: bool = False
    """Whether anything was written: the journal can be."""


class Writer:
    """Runs operations in its own thread; `committed` is called in the loop, group by group."""

    def __init__(self, make: Callable[[], Journal], committed: Callable[[Committed], None]) -> None:
        self._make = make
        self._committed = committed
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.queued_bytes = 0
        """Bytes submitted and not yet committed."""
        self.queued = 0
        """Operations submitted and not yet committed."""

    async def start(self) -> None:
        """Open the journal; raises what opening it raises."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(opened,), name="journal", daemon=True
        )
        self._thread.start()
        try:
            await opened
        except BaseException:
            self._thread = None
            raise

    def submit(self, run: Callable[[Journal], Any], done: Done, size: int = 0) -> None:
        """Queue an operation; it must check before it changes anything, so that it can refuse."""
        if self._thread is None:
            done(Closed("the journal is closed"))
            return
        self.queued += 1
        self.queued_bytes += size
        self._queue.put(Operation(run, done, size))

    async def stop(self) -> None:
        """Finish what was submitted, and close the journal."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)  # the last group's results are in the loop's queue by now

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None  # noqa: S101 (the thread starts after the loop is known)
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            return

    def _work(self, opened: asyncio.Future[None]) -> None:
        try:
            journal = self._make()
        except BaseException as e:
            self._post(_settle, opened, e)
            return
        self._post(_settle, opened, None)
        try:
            while (group := self._gather()) is not None:
                if group:
                    self._post(self._finish, self._attempt(journal, group))
        finally:
            journal.close()

    def _gather(self) -> list[Operation] | None:
        first = self._queue.get()
        if first is None:
            return None
        group, size = [first], first.size
        while len(group) < GROUP and size < GROUP_BYTES:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            group.append(item)
            size += item.size
        return group

    def _attempt(self, journal: Journal, group: list[Operation]) -> Committed:
        try:
            return self._run(journal, group)
        except Exception as e:  # without this thread nobody would ever be answered again
            _log.exception("the journal failed")
            error = BusError(f"the journal failed: {e}")
            results: list[tuple[Done, Any]] = [(operation.done, error) for operation in group]
            size = sum(operation.size for operation in group)
            return Committed(results, [], None, False, False, size, error)

    def _run(self, journal: Journal, group: list[Operation]) -> Committed:
        try:
            return self._transact(journal, group)
        except (BusError, sqlite3.Error) as e:
            error = e if isinstance(e, BusError) else journal.failure(e)
            if len(group) == 1:
                size = group[0].size
                return Committed([(group[0].done, error)], [], None, False, False, size, error)
        # One that the disk has no room for must not take reads and small ones with it.
        parts = [self._run(journal, [operation]) for operation in group]
        return Committed(
            [result for part in parts for result in part.results],
            [event for part in parts for event in part.events],
            next((part.next_due for part in reversed(parts) if part.due_changed), None),
            any(part.due_changed for part in parts),
            any(part.freed for part in parts),
            sum(part.size for part in parts),
            next((part.failure for part in parts if part.failure), None),
            any(part.wrote for part in parts),
        )

    @staticmethod
    def _transact(journal: Journal, group: list[Operation]) -> Committed:
        results: list[tuple[Done, Any]] = []
        try:
            journal.begin()
            for run, done, _ in group:
                try:
                    results.append((done, run(journal)))
                except (Damaged, DiskFull):  # found halfway
                    raise
                except BusError as e:  # refused before anything was changed
                    results.append((done, e))
            changed, freed = journal.leases.touched, journal.leases.freed
            journal.leases.freed = False
            due = journal.leases.next_due() if changed else None
        except sqlite3.Error as e:
            journal.rollback()
            raise journal.failure(e) from e
        except BusError:
            journal.rollback()
            raise
        except Exception as e:  # a request that nobody foresaw must not end the journal
            journal.rollback()
            _log.exception("an operation on the journal failed")
            raise BusError(f"the journal cannot do this: {e}") from e
        wrote = journal.commit()
        events, journal.outbox = journal.outbox, []
        size = sum(operation.size for operation in group)
        return Committed(results, events, due, changed, freed, size, None, wrote)

    def _finish(self, group: Committed) -> None:
        self.queued -= len(group.results)
        self.queued_bytes -= group.size
        self._committed(group)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
