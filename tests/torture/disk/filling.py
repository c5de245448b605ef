"""A journal with a history: events, groups that took some of them, dead letters, checkpoints."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import schemas
from bus.journal import Entry, Journal
from schemas import Event, FeedbackGiven, LearningBatchRejected

__all__ = ["GROUPS", "KINDS", "History", "fill"]

GROUPS = ("distiller", "factory")
KINDS = (FeedbackGiven.type, LearningBatchRejected.type)


@dataclass
class History:
    """What was acknowledged."""

    entries: list[Entry] = field(default_factory=list)
    """In the order of their numbers, from 1 on."""
    raws: dict[int, bytes] = field(default_factory=dict)
    """Events by their numbers, as the journal acknowledged them."""
    owed: dict[str, set[int]] = field(default_factory=dict)
    """Events that each group has yet to end."""
    dead: set[tuple[str, int]] = field(default_factory=set)
    failed: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often each group failed at an event."""


def fill(state: Path, chance: random.Random, most: int) -> History:
    """Fill the journal of a state folder; it ends in order, or as a kill leaves it."""
    history = History(owed={group: set() for group in GROUPS})
    work = state / "work"
    work.mkdir(parents=True)
    journal = Journal(work / "journal.sqlite")
    size = chance.choice((40, 400, 3_000))
    for _ in range(chance.randint(3, max(3, most // 12))):
        _commit(journal, history, chance, size)
        if chance.random() < 0.5:
            _consume(journal, history, chance)
        if chance.random() < 0.1:
            journal.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    killed = chance.random() < 0.7
    if not killed:
        journal.close()
    for file in work.iterdir():  # as they are at this moment: what a kill leaves behind
        shutil.copy2(file, state / file.name)
    if killed:
        journal.close()
    shutil.rmtree(work)
    return history


def _commit(journal: Journal, history: History, chance: random.Random, size: int) -> None:
    entries = []
    for _ in range(chance.randint(1, 24)):
        n = len(history.entries) + len(entries) + 1
        length = 20_000 if chance.random() < 0.02 else chance.randint(1, size)
        text = f"{n} " + chance.randbytes(length // 2 + 1).hex()
        data = (
            FeedbackGiven(query=text, relevant=("a",))
            if chance.random() < 0.7
            else LearningBatchRejected(batch_id=str(n), reason=text)
        )
        event = Event(data=data, source=f"/test/{n % 3}", id=f"e{n}")
        entries.append(Entry(event.type, event.source, event.id, schemas.encode(event)))
    journal.begin()
    placed = journal.append(entries)
    journal.commit()
    journal.outbox = []
    for entry, (sequence, known) in zip(entries, placed, strict=True):
        assert not known
        raw = journal.event(sequence)
        assert raw is not None
        history.entries.append(entry)
        history.raws[sequence] = raw
        for owed in history.owed.values():
            owed.add(sequence)


def _consume(journal: Journal, history: History, chance: random.Random) -> None:
    group = chance.choice(GROUPS)
    journal.begin()
    taken = journal.leases.lease(group, KINDS, chance.randint(1, 20), 30.0, "earliest")
    journal.commit()
    for leased in taken:
        sequence = schemas.header(leased.raw).sequence or 0
        fate = chance.random()
        journal.begin()
        if fate < 0.7:
            journal.leases.ack([leased.lease], [], str(sequence).encode())
            history.owed[group].discard(sequence)
        elif fate < 0.85:
            hopeless = fate < 0.75
            journal.leases.nack(leased.lease, 0.0, "no", hopeless, str(sequence).encode())
            history.failed[group, sequence] += 1
            if hopeless or history.failed[group, sequence] == journal.settings.max_deliveries:
                history.owed[group].discard(sequence)
                history.dead.add((group, sequence))
        journal.commit()
