"""A domain is forgotten: each store in its turn, the journal last.

    domain.forget ──▶ dissonance_monitor ──▶ distiller ──▶ factory ──▶ journal (by the monitor)

Each says `domain.forgotten`, and that is the next one's turn. What a service derived from feedback
that was given before lies before its word in the journal, and what it derives from later feedback
behind: so the next one tells both apart by their numbers, and what was given later starts anew.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from bus import Delivery
from schemas import DomainForget, DomainForgotten, Event, Payload
from services.runtime import handful
from services.runtime.service import Service
from services.runtime.store import transaction

__all__ = ["SCHEMA", "Forgetting", "Mark", "scrub"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS forgotten (
    domain TEXT PRIMARY KEY, upto INTEGER NOT NULL, erased INTEGER NOT NULL, said INTEGER NOT NULL
) WITHOUT ROWID;
"""
"""Part of the store's schema."""


class Mark(NamedTuple):
    """Up to where a domain is forgotten."""

    upto: int
    """The journal's number of this service's turn: what came before it is gone."""
    erased: int
    """Rows that were erased."""
    said: int
    """The journal's number of this service's own word; 0: not said yet."""


def scrub(store: sqlite3.Connection) -> None:
    """Leave nothing of deleted rows in the store's file, nor in its log.

    SQLite overwrites what it deletes only in part, and copies of rows that were moved stay in the
    gaps of their old pages: the whole file is written anew, about a second for 100 MB.
    Raises `TimeoutError` where somebody reads it for longer than a change of it would wait.
    """
    store.execute("VACUUM")
    busy, *_ = store.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise TimeoutError("the store is being read: what was erased is still in its log")


class Forgetting:
    """One service's part, done once for every order however often it is delivered.

    Erasing and the mark are one transaction; the file is written anew before the word is said, and
    all of it is made up for where the process was killed in between.
    """

    def __init__(
        self,
        service: Service,
        store: sqlite3.Connection,
        *,
        after: str | None,
        erase: Callable[[str], int],
        quiet: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        """What is this service's own.

        Args:
            after: the service whose word is this one's turn; None: the order itself is.
            erase: delete what the store holds of a domain, in the caller's transaction; how many
                rows. It may be asked again.
            quiet: within this block nothing of the domain is in hand, or on its way to the bus.
        """
        self._service = service
        self._store = store
        self._after = after
        self._erase = erase
        self._quiet = quiet

    @property
    def kind(self) -> type[Payload]:
        """The type of the events that are this service's turn."""
        return DomainForget if self._after is None else DomainForgotten

    def mark(self, domain: str) -> Mark | None:
        """Up to where a domain is forgotten; None: it never was."""
        row = self._store.execute(
            "SELECT upto, erased, said FROM forgotten WHERE domain = ?", (domain,)
        ).fetchone()
        return None if row is None else Mark(*row)

    def covers(self, domain: str, event: Event[Any]) -> bool:
        """Whether a durable event of a domain comes from before the domain was forgotten."""
        mark = self.mark(domain)
        return mark is not None and (event.sequence or 0) <= mark.upto

    async def catch_up(self) -> None:
        """Do what was ordered while the process was away, before anything is taken.

        An order whose lease a kill left behind comes again only after what follows it.
        """
        (after,) = self._store.execute(
            "SELECT COALESCE(MIN(CASE said WHEN 0 THEN upto - 1 END), MAX(upto), 0) FROM forgotten"
        ).fetchone()
        while events := (await self._service.bus.read(self.kind, after=after)).events:
            for event in events:
                if self._is_turn(event):
                    await self._forget(event)
                after = event.sequence or after

    async def heed(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Forget what this handful orders, first; what is left of it to work on.

        The caller acknowledges all of it.
        """
        for delivery in deliveries:
            if self._is_turn(delivery.event):
                await self._forget(delivery.event)
        return [delivery for delivery in deliveries if self._is_work(delivery.event)]

    def _is_turn(self, event: Event[Any]) -> bool:
        data = event.data
        if isinstance(data, DomainForgotten):
            return self._after is not None and data.service == self._after
        return self._after is None and isinstance(data, DomainForget)

    def _is_work(self, event: Event[Any]) -> bool:
        if isinstance(event.data, DomainForget | DomainForgotten):
            return False
        domain = event.data.domain
        return domain is None or not self.covers(domain, event)

    async def _forget(self, event: Event[Any]) -> None:
        """Wait for the fleet where need be: what came behind the order, and was taken before it
        is done, would be erased with the rest."""
        while True:
            try:
                return await self._done(event)
            except Exception as error:
                if not handful.is_passing(error):
                    raise
                domain = event.data.domain
                self._service.log.info("not forgotten yet", domain=domain, why=str(error))
            await asyncio.sleep(handful.PATIENCE)

    async def _done(self, event: Event[Any]) -> None:
        domain, number = event.data.domain, event.sequence or 0
        mark = self.mark(domain)
        if mark is not None and mark.upto == number and mark.said:
            return
        async with self._quiet(domain):
            if mark is None or mark.upto < number:
                with transaction(self._store):
                    mark = Mark(number, self._erase(domain), 0)
                    self._keep(domain, mark)
            scrub(self._store)
            # One that was overtaken by a later order has nothing left to erase.
            erased = mark.erased if mark.upto == number else 0
            word = DomainForgotten(domain=domain, service=self._service.name, erased=erased)
            (said,) = await self._service.bus.publish(
                event.derive(word, source=self._service.source)
            )
        if mark.upto == number:
            self._keep(domain, mark._replace(said=said or number))
        self._service.log.info("domain forgotten", domain=domain, erased=erased)

    def _keep(self, domain: str, mark: Mark) -> None:
        self._store.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?)", (domain, *mark))
