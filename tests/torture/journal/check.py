"""Whether a history keeps the promises: a pure function, apart from how the history came about.

process      one ended for another reason than a fault
lost         a publisher was told of a number that is not so; a group never finished an event
unexpected   something is journaled, delivered or watched that nobody tried to publish
order        numbers and `previous` make no chain; a group took what is new to it out of turn
twice        delivered again though the lease before had not ended; or once acknowledged
answers      a consumer was told what the journal did not do, or the other way round
derived      not exactly one for each event that was acknowledged
dead         poison that is no dead letter, twice one, for another reason; or any other event
watched      a watcher missed a number, saw one twice or out of order
"""

from __future__ import annotations

from collections import Counter

from schemas import LearningBatchRejected
from tests.torture.journal.groups import check_groups
from tests.torture.journal.history import Acknowledged, Attempted, Failed, History, Seen
from tests.torture.journal.verdict import Verdict

__all__ = ["check"]


def check(history: History) -> Verdict:
    """Look at every promise, each for itself."""
    verdict = Verdict()
    for life in (*history.publishers, *history.consumers, *history.watchers):
        for record in life.records:
            if isinstance(record, Failed):
                verdict.say("process", f"{life.name} ended by itself: {record.what}")
    _check_chain(history, verdict)
    _check_published(history, verdict)
    check_groups(history, verdict)
    _check_derived(history, verdict)
    _check_dead(history, verdict)
    _check_watched(history, verdict)
    return verdict


def _check_chain(history: History, verdict: Verdict) -> None:
    heads: dict[str, int] = {}
    before = 0
    for event in history.journal:
        if event.sequence != before + 1:
            verdict.say("order", f"the journal has number {event.sequence} after {before}")
        if event.previous != heads.get(event.type, 0):
            verdict.say(
                "order", f"number {event.sequence} names {event.previous} as the one before"
            )
        heads[event.type] = before = event.sequence
    verdict.figures["events journaled"] = len(history.journal)


def _check_published(history: History, verdict: Verdict) -> None:
    kept: dict[str, int] = {}
    for event in history.journal:
        if event.id in kept:
            verdict.say(
                "twice", f"{event.id} is journaled as {kept[event.id]} and {event.sequence}"
            )
        kept[event.id] = event.sequence
    attempted: set[str] = set()
    told: set[str] = set()
    for life in history.publishers:
        for record in life.records:
            if isinstance(record, Attempted):
                attempted.add(record.id)
            elif isinstance(record, Acknowledged):
                told.add(record.id)
                if kept.get(record.id) != record.sequence:
                    verdict.say(
                        "lost",
                        f"{life.name} was told that {record.id} has number {record.sequence},"
                        f" the journal says {kept.get(record.id)}",
                    )
    for event in history.journal:
        known = event.id in attempted or event.id in history.unreadable
        if not known and event.type != LearningBatchRejected.type:
            verdict.say(
                "unexpected", f"nobody tried to publish {event.id}, number {event.sequence}"
            )
    verdict.figures["events attempted"] = len(attempted)
    verdict.figures["events acknowledged"] = len(told)


def _check_derived(history: History, verdict: Verdict) -> None:
    causes = Counter(e.cause for e in history.journal if e.type == LearningBatchRejected.type)
    ended = {t.sequence for t in history.turns if t.group == history.deriving and t.what == "ack"}
    done = {event.id for event in history.journal if event.sequence in ended}
    for cause, count in causes.items():
        if count > 1:
            verdict.say("derived", f"{cause} has {count} derived events")
        if cause not in done:
            verdict.say("derived", f"{cause} has a derived event and was not acknowledged")
    for name in done - causes.keys():
        verdict.say("derived", f"{name} was acknowledged and has no derived event")
    verdict.figures["events derived"] = causes.total()


def _check_dead(history: History, verdict: Verdict) -> None:
    found = Counter((letter.group, letter.id) for letter in history.dead)
    for (group, name), count in found.items():
        if count > 1:
            verdict.say("dead", f"{name} is {count} times a dead letter of {group}")
    for letter in history.dead:
        reason = history.poison.get(letter.id)
        if reason is None:
            verdict.say("dead", f"{letter.id} is no poison, and a dead letter of {letter.group}")
        elif reason not in letter.reason:
            verdict.say("dead", f"{letter.id} is dead because {letter.reason!r}, not {reason!r}")
    for event in history.journal:
        for group, types in history.groups.items():
            if event.id in history.poison and event.type in types:
                if (group, event.id) not in found:
                    verdict.say("dead", f"poison {event.id} is no dead letter of {group}")
                verdict.figures["poison events, by group"] += 1
    verdict.figures["dead letters"] = len(history.dead)


def _check_watched(history: History, verdict: Verdict) -> None:
    kept = {event.sequence: event.id for event in history.journal}
    expected = {event.sequence for event in history.journal if event.id not in history.unreadable}
    last: dict[str, int] = {}
    seen: dict[str, set[int]] = {}
    for life in history.watchers:
        numbers = seen.setdefault(life.name, set())
        for record in life.records:
            if not isinstance(record, Seen):
                continue
            before = last.get(life.name, 0)
            if record.sequence <= before:
                verdict.say("watched", f"{life.name} saw number {record.sequence} after {before}")
            if kept.get(record.sequence) != record.id:
                verdict.say(
                    "unexpected",
                    f"{life.name} saw {record.id} as number {record.sequence},"
                    f" the journal has {kept.get(record.sequence)}",
                )
            last[life.name] = record.sequence
            numbers.add(record.sequence)
            verdict.figures["events watched"] += 1
    for name, numbers in seen.items():
        for missed in sorted(expected - numbers):
            verdict.say("watched", f"{name} never saw number {missed}, {kept[missed]}")
