"""Requests in hand, and which of their rows make the next batch; no clock, no thread, no torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lora.card import LoRACard
from schemas import EncodeAssigned, Event
from services.encoder.fairness import Turns

__all__ = ["LEAST", "Batch", "Batcher", "Job", "Row"]

LEAST: Final = 4
"""A batch is at least this part of the budget, where so much waits: smaller ones cost more."""


@dataclass(eq=False)
class Job:
    """One assigned request: what it needs, and what of it is there already."""

    event: Event[EncodeAssigned]
    stacks: tuple[tuple[LoRACard, ...], ...]
    """The cards of each row, in the order in which they stack."""
    lengths: tuple[int, ...]
    """What each text costs, in tokens; one where its vector was known when it came."""
    received: float
    """Seconds, monotonic."""
    ids: tuple[Sequence[int], ...] = ()
    """The tokens of each text; empty where its vector was known. Without any: none were made."""
    vectors: list[NDArray[np.float32] | None] = field(init=False)
    pending: deque[int] = field(init=False)
    """Rows not yet in a batch, the longest first, so that rows of one length lie together."""
    left: int = field(init=False)
    """Rows without a vector."""
    turn: float = 0.0
    """Of one client's requests the one with the least is served first; in tokens."""
    started: float | None = None
    compute: float = 0.0
    """Seconds of the batches that took part in it."""
    tokens: int = 0
    """Tokens of the texts whose vectors are there."""

    def __post_init__(self) -> None:
        self.vectors = [None] * len(self.lengths)
        self.left = len(self.lengths)
        self.pending = deque(sorted(range(self.left), key=lambda row: -self.lengths[row]))

    @property
    def data(self) -> EncodeAssigned:
        """What was assigned."""
        return self.event.data

    @property
    def client(self) -> str:
        """Who shares a turn with itself only."""
        return self.data.client or self.data.reply_to

    def put(self, row: int, vector: NDArray[np.float32], tokens: int) -> None:
        """The vector (dim,) of one row, and the tokens of its text."""
        if self.vectors[row] is None:
            self.left -= 1
            self.tokens += tokens
        self.vectors[row] = vector


class Row(NamedTuple):
    """One text of one request."""

    job: Job
    place: int

    @property
    def text(self) -> str:
        """What is to be encoded."""
        return self.job.data.texts[self.place]

    @property
    def role(self) -> str:
        """`query` or `document`."""
        return self.job.data.role

    @property
    def length(self) -> int:
        """What it costs, in tokens."""
        return self.job.lengths[self.place]

    @property
    def ids(self) -> Sequence[int]:
        """Its tokens, if they were made already."""
        return self.job.ids[self.place] if self.job.ids else ()

    @property
    def stack(self) -> tuple[LoRACard, ...]:
        """Its cards."""
        return self.job.stacks[self.place]

    @property
    def cards(self) -> tuple[str, ...]:
        """The digests of its cards: rows with equal ones can share a segment."""
        return tuple(card.key for card in self.stack)


class Batch(NamedTuple):
    """What to compute now, and which requests will have none of it."""

    rows: tuple[Row, ...]
    expired: tuple[Job, ...]
    """Their deadlines have passed."""
    stuck: tuple[Job, ...] = ()
    """They wait behind others of their own client, and have for too long."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The requests that have a row in it, in order of arrival."""
        return tuple(dict.fromkeys(row.job for row in self.rows))

    @property
    def mixed(self) -> bool:
        """Whether rows with different cards meet in it."""
        return len({row.cards for row in self.rows}) > 1


class Batcher:
    """Fair queueing by token budget; a batch is ready whenever anything waits.

    `Turns` says whose row is next. There is no timer: while one batch is computed the next one
    gathers by itself.
    """

    def __init__(self, budget: int, patience: float = math.inf) -> None:
        """`budget` tokens make a batch, `patience` is in seconds."""
        self._budget = budget
        self._patience = patience
        self._tokens = 0  # of all that wait
        self._turns = Turns()

    @property
    def tokens(self) -> int:
        """Of all that wait."""
        return self._tokens

    def __len__(self) -> int:
        return sum(len(job.pending) for job in self._turns)

    def _share(self) -> int:
        """Half of what waits, within limits: while that is computed the answers to the other half
        travel, and what their clients ask next comes. All at once, and everybody would wait for
        everybody."""
        return min(self._budget, max(self._tokens // 2, self._budget // LEAST))

    def add(self, job: Job) -> None:
        """Let a request wait for its turn."""
        self._tokens += sum(job.lengths)
        self._turns.add(job)

    def remove(self, jobs: Sequence[Job]) -> None:
        """Forget requests that need no more rows."""
        self._tokens -= self._turns.remove(jobs)

    def take(self, now: datetime, moment: float = 0.0) -> Batch:
        """Rows of waiting requests, as many as the budget of tokens allows, at least one.

        Requests whose deadline has passed are dropped and named, and so are those that have waited
        beyond the patience at `moment` (seconds, monotonic), untouched, while other clients wait
        too: by then their client has had its share of what was served. The rows are sorted by
        their cards, then by length, so that rows of one length lie together. Padding is not
        counted.
        """
        expired = tuple(job for job in self._turns if job.data.deadline <= now)
        since = moment - self._patience
        stuck: tuple[Job, ...] = ()
        if self._turns.clients > 1:
            stuck = tuple(
                job
                for job in self._turns
                if job.received < since
                and len(job.pending) == len(job.lengths)
                and job.data.deadline > now
            )
        if expired or stuck:
            self.remove(expired + stuck)
        rows: list[Row] = []
        tokens, budget = 0, self._share()
        while (job := self._turns.first()) is not None:
            row = Row(job, job.pending[0])
            if rows and tokens + row.length > budget:
                break
            tokens += row.length
            rows.append(row)
            job.pending.popleft()
            self._turns.charge(row.length)
        rows.sort(key=lambda row: (row.cards, row.length))
        self._tokens -= tokens
        return Batch(tuple(rows), expired, stuck)
