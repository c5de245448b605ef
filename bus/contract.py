"""The contract of every bus: what a service may rely on, whichever transport carries it.

                 live lane                            durable lane
    order        per publisher                        total, by `sequence`
    loss         possible: slow or absent listeners   none once `publish` has returned
    duplicates   possible                             same source and id is kept once
    backpressure none: a full buffer drops, counted   `publish` waits for the journal

No order is promised across lanes. A watcher gets live events from the moment `async with` has
entered; waiting for the subscription to be live is the bus's business.

On NATS two of these transactions are sequences: several events published at once are stored one by
one, in order, and `ack(…, publish=…)` publishes first and acknowledges then. Whoever dies in
between leaves a part of it; as ids are derived, doing it again completes it and doubles nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import msgspec

from schemas import Event, Payload

__all__ = [
    "Bus",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "GroupState",
    "JournalPage",
    "Kinds",
    "Start",
    "Statistics",
    "Subscription",
]

Kinds = type[Payload] | Sequence[type[Payload]]
"""One event type, or several."""

Start = Literal["earliest", "latest"]
"""Where a group that is new begins."""


class Statistics(NamedTuple):
    """Counts since the bus was opened."""

    published: int
    received: int
    dropped: int
    """Events that a full local buffer lost (live), or that were repaired from the journal."""
    refused: int
    reconnects: int


class JournalPage(NamedTuple):
    """A stretch of the journal, in order."""

    events: tuple[Event[Any], ...]
    truncated: bool
    """True if events after the asked sequence were already beyond retention."""


class DeadLetter(NamedTuple):
    """A delivery that failed for good."""

    id: int
    group: str
    reason: str
    event: Event[Any] | None
    """None where the bytes cannot be decoded any more."""
    raw: bytes


class GroupState(msgspec.Struct, frozen=True, kw_only=True):
    """How a group stands: as it also travels, and as commands show it."""

    name: str
    types: tuple[str, ...]
    """What it takes, in order."""
    behind: int
    """Events that it has yet to acknowledge."""
    more: bool
    """Whether there are more: of each type no more than 10,000 are counted."""
    since: datetime | None
    """When the oldest of them was journaled; None where there are none."""
    consumed: bool
    """Whether somebody waits for a lease as this group, or holds one."""
    dead: int
    """Its dead letters."""


class Subscription(ABC):
    """A live view: `async with bus.watch(…) as events: async for event in events: …`."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Return once the subscription is live at the broker; raises `Unreachable`."""

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe; buffered events are forgotten."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Event[Any]]:
        """The events, one at a time; ends when the bus closes."""

    @abstractmethod
    async def get(self, timeout: float | None = None) -> Event[Any]:
        """The next event; raises `TimeoutError` after `timeout` seconds, `Closed`."""

    truncated: bool = False
    """True once `after` asked for events that retention had already removed."""


class Delivery(ABC):
    """One leased event of a group; exactly one of ack, nack and defer ends it."""

    event: Event[Any]
    attempt: int
    """1 at the first delivery."""
    lease: str

    @abstractmethod
    async def ack(self, *, publish: Sequence[Event[Any]] = ()) -> None:
        """Done: the acknowledgement and the derived events become true in one transaction.

        Raises `StaleLease` if the lease ran out: then nothing was changed or published.
        """

    @abstractmethod
    async def nack(self, *, delay: float = 0.0, reason: str = "") -> None:
        """Failed: deliver again after `delay` seconds, or to the dead letters after 5 times."""

    @abstractmethod
    async def extend(self, visibility: float) -> None:
        """Keep the lease for `visibility` seconds from now."""

    @abstractmethod
    async def defer(self, until: datetime) -> None:
        """Not yet: deliver again at `until`; never counts as failed."""


class Consumer(ABC):
    """A member of a group: `async with bus.consume(…) as work: async for delivery in work: …`.

    Leaving the block hands back, uncounted, what was leased and not yet ended.
    """

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Deliveries as they become due; survives a broker that is away for a while."""

    @abstractmethod
    async def get(self, timeout: float | None = None) -> Delivery:
        """The next delivery; raises `TimeoutError` after `timeout` seconds, `Closed`."""


class Bus(ABC):
    """A connection to the bus. One per process; not shared between event loops."""

    source: str
    """This process's name on events: `/encoder/2`; stable across restarts."""
    address: str
    """The recipient name under which addressed events reach it: `encoder-2`."""
    url: str

    @abstractmethod
    async def publish(self, *events: Event[Any]) -> tuple[int | None, ...]:
        """Send events. Durable ones are journaled, all or none, before this returns.

        Returns their sequences, None for live ones; a duplicate gets the sequence that the first
        one had. While the broker is away durable publishing waits and resends (same id) for up to
        `patience` seconds of the connection, live events may be lost.
        Raises `Refused` and its kinds, `Unreachable`, `SchemaError`.
        """

    @abstractmethod
    def watch(
        self,
        kinds: Kinds,
        *,
        to: str | None = None,
        after: int | None = None,
        buffer: int = 10_000,
    ) -> Subscription:
        """Listen to event types; addressed types are heard for `to` (default: own address).

        With `after` (durable types): first the journal after that sequence, then live, without
        gap or duplicate. Durable events come in the order of their sequence, whatever their types;
        where some were, or may have been, lost on the way, they are read from the journal.
        `buffer` bounds the events that wait locally; beyond it the oldest live ones are dropped.
        """

    @abstractmethod
    def consume(
        self,
        group: str,
        kinds: Kinds,
        *,
        max_leases: int = 1,
        visibility: float = 30.0,
        start: Start = "earliest",
    ) -> Consumer:
        """Compete for the durable events of a named group.

        What is new to the group is handed out in the order of its sequence; what came back goes
        before it. What its consumers seem to die of is handed out alone.
        """

    @abstractmethod
    async def ack(
        self, deliveries: Sequence[Delivery], *, publish: Sequence[Event[Any]] = ()
    ) -> None:
        """End several deliveries and publish durable events, all in one transaction."""

    @abstractmethod
    async def request(
        self,
        event: Event[Any],
        replies: Kinds,
        *,
        timeout: float,
        resend: float = 2.0,
    ) -> Event[Any]:
        """Publish a live event whose `reply_to` is this bus's address; return the answer.

        The answer is the first event of `replies` addressed here whose `correlation_id` is the
        event's id. It is resent with the same id every `resend` seconds (backing off) until then.
        Raises `RequestTimeout`, and `Refused` where the broker answers `event.refused`.
        """

    @abstractmethod
    async def read(
        self, kinds: Kinds | None = None, *, after: int = 0, limit: int = 1000
    ) -> JournalPage:
        """A stretch of the journal; all types where `kinds` is None."""

    @abstractmethod
    async def heads(self) -> Mapping[str, int]:
        """The last sequence of every durable type that has one."""

    @abstractmethod
    async def dead_letters(
        self,
        action: Literal["list", "retry", "drop"] = "list",
        *,
        group: str | None = None,
        ids: Sequence[int] | None = None,
    ) -> tuple[DeadLetter, ...]:
        """List, deliver again, or drop dead letters; returns those concerned."""

    @abstractmethod
    async def groups(self) -> tuple[GroupState, ...]:
        """Every group that ever consumed and was not dropped, by name."""

    @abstractmethod
    async def drop_group(self, name: str, *, force: bool = False) -> GroupState | None:
        """Forget a group, its leases and its dead letters; how it stood, None for no such group.

        Whoever consumes as it later begins anew, with what the journal still has. Raises `Consumed`
        where somebody does now, unless `force` is said: then those who hold leases lose them.
        """

    @abstractmethod
    async def erase(
        self, kinds: Kinds, where: Mapping[str, str], *, upto: int | None = None
    ) -> int:
        """Erase the journaled events of `kinds` whose data equals `where`; how many it were.

        With `upto`: those with this sequence or a smaller one.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close everything; waits for what is being published, never for slow listeners."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Counts since the bus was opened."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
