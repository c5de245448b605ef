"""The journal's storm in small, and the checker itself: it must see what is planted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from tests.torture.journal import outcome
from tests.torture.journal.check import check
from tests.torture.journal.history import (
    Acknowledged,
    Attempted,
    Dead,
    Delivered,
    Failed,
    Fault,
    History,
    Kept,
    Life,
    Seen,
    Step,
    Turn,
)
from tests.torture.journal.processes import Processes
from tests.torture.journal.schedule import Plan
from tests.torture.journal.storm import Director

SMALL = Plan(
    seed=1,
    events=1_200,
    faults=10,
    storm=1.8,
    visibility=1.0,
    drain=40.0,
    refused=3,
    killers=1,
    unreadable=1,
    free_lapses=1,
    deliveries=4,
    grace=0.2,
)


def test_a_small_storm() -> None:
    """Some thousand events, ten faults: nothing lost, nothing forged, each once, in order."""
    found = outcome(SMALL, lambda line: None)
    assert not found.broken
    assert found.figures["events attempted"] == SMALL.events
    assert found.figures["faults"] == SMALL.faults
    assert found.figures["consumers that died of poison"]
    # Two groups consume what the poison is, each has each once.
    assert found.figures["dead letters"] == 2 * (SMALL.refused + SMALL.killers + 1)


WATCHER = "watch-1"
OTHER = "watch-2"


def test_who_dies_while_nobody_looks_is_started_again(tmp_path: Path) -> None:
    with Processes(tmp_path, SMALL) as fleet:
        director = Director(SMALL, fleet, lambda line: None)
        for name in (WATCHER, OTHER):
            fleet.start(name)
        fleet.send(OTHER, signal.SIGKILL)
        fleet.end(WATCHER)  # which notices whoever else is dead
        told = fleet.ended()
        while not told:  # it takes a moment to be gone
            told = fleet.ended()
        assert told == [OTHER]
        fleet.start(WATCHER)
        fleet.send(WATCHER, signal.SIGKILL)
        director.strike(Fault("freeze", WATCHER, 0.0, 0.0))
        while len(fleet.lives[WATCHER]) < 2:  # until its death was noticed
            director.look()
        while not fleet.running(WATCHER):
            director.look()


def test_a_schedule_comes_from_its_seed() -> None:
    assert SMALL.schedule() == SMALL.schedule() != replace(SMALL, seed=2).schedule()
    assert len(SMALL.schedule()) == SMALL.faults


KIND = "feedback.given"
DERIVED = "learning.batch_rejected"


class Story:
    """A history as it should be: written event by event, with a redelivery and one poison."""

    def __init__(self) -> None:
        self.publisher: list[Any] = []
        self.consumer: list[Any] = []
        self.watcher: list[Any] = []
        self.journal: list[Kept] = []
        self.turns: list[Turn] = []
        for n in (1, 2, 3):
            self.publisher.append(Attempted(f"p:{n}"))
            self.keep(KIND, f"p:{n}")
            self.publisher.append(Acknowledged(f"p:{n}", n))
        self.publisher.append(Attempted("p:4"))  # nobody knows what became of it
        self.hand("fresh", 1, 1, "a")
        self.hand("fresh", 2, 1, "b")
        self.hand("fresh", 3, 1, "c")
        self.end("ack", 1, "a")
        self.keep(DERIVED, "d1", "p:1")
        self.turn("lapse", 2, 1, "b", at=5.0, until=5.0)
        self.hand("again", 2, 2, "d")
        self.end("ack", 2, "d")
        self.keep(DERIVED, "d2", "p:2")
        self.end("nack", 3, "c")
        self.hand("again", 3, 2, "e")
        self.end("nack", 3, "e", what="dead")

    def keep(self, kind: str, name: str, cause: str | None = None) -> None:
        previous = max((e.sequence for e in self.journal if e.type == kind), default=0)
        number = len(self.journal) + 1
        self.journal.append(Kept(number, kind, name, previous, cause))
        self.watcher.append(Seen(number, name))

    def turn(self, what: str, number: int, attempt: int, lease: str, **at: float) -> None:
        times = {"at": 0.0, "until": 5.0, **at}
        self.turns.append(Turn(len(self.turns), what, "g", number, attempt, lease, **times))

    def hand(self, what: str, number: int, attempt: int, lease: str) -> None:
        self.turn(what, number, attempt, lease)
        self.consumer.append(Delivered(1.0, lease, number, f"p:{number}", attempt))

    def end(self, how: str, number: int, lease: str, what: str = "") -> None:
        self.consumer += [Step(how, "try", (lease,)), Step(how, "ok", (lease,))]
        self.turn(what or how, number, 1, lease)

    def history(self) -> History:
        return History(
            groups={"g": frozenset([KIND])},
            deriving="g",
            publishers=[Life("p", 1, self.publisher)],
            consumers=[Life("c", 1, self.consumer, "g")],
            watchers=[Life("w", 1, self.watcher[:2]), Life("w", 2, self.watcher[2:])],
            journal=self.journal,
            dead=[Dead("g", "p:3", "it was refused")],
            turns=self.turns,
            poison={"p:3": "refused"},
            away={"c": [(2.0, 3.0)]},
        )


def test_a_history_as_it_should_be() -> None:
    verdict = check(Story().history())
    assert verdict.broken == ()
    assert verdict.figures["delivered again: the lease ran out"] == 1
    assert verdict.figures["ran out: its consumer died or froze"] == 1
    assert verdict.figures["delivered again: refused"] == 1
    assert verdict.figures["events attempted"] == 4
    assert verdict.figures["events acknowledged"] == 3


def lose_publication(story: Story) -> None:
    story.publisher.append(Acknowledged("p:4", 6))


def renumber(story: Story) -> None:
    story.publisher[1] = Acknowledged("p:1", 2)


def lose_delivery(story: Story) -> None:
    story.turns = [turn for turn in story.turns if turn.sequence != 1]
    story.consumer = [r for r in story.consumer if "a" not in leases(r)]


def skip_handler(story: Story) -> None:
    story.turns = [t for t in story.turns if t.lease not in ("c", "e") or t.what == "fresh"]
    story.turns = [changed(t, what="gone") if t.lease == "c" else t for t in story.turns]


def forge_event(story: Story) -> None:
    story.keep(KIND, "p:99")


def forge_delivery(story: Story) -> None:
    story.consumer[0] = changed(story.consumer[0], id="p:99")


def forge_lease(story: Story) -> None:
    story.consumer.append(Delivered(9.0, "z", 1, "p:1", 2))


def break_chain(story: Story) -> None:
    story.journal[1] = changed(story.journal[1], previous=0)


def skip_number(story: Story) -> None:
    del story.journal[1]


def journal_twice(story: Story) -> None:
    story.keep(KIND, "p:1")


def out_of_turn(story: Story) -> None:
    story.turns[0], story.turns[1] = story.turns[1], story.turns[0]


def handed_out_of_turn(story: Story) -> None:
    story.consumer[0], story.consumer[1] = story.consumer[1], story.consumer[0]


def lapse_early(story: Story) -> None:
    at = next(n for n, turn in enumerate(story.turns) if turn.what == "lapse")
    story.turns[at] = changed(story.turns[at], at=4.9)


def two_at_once(story: Story) -> None:
    story.turns = [turn for turn in story.turns if turn.what != "lapse"]


def same_lease_twice(story: Story) -> None:
    story.consumer.append(story.consumer[0])


def after_its_ack(story: Story) -> None:
    story.hand("again", 1, 2, "z")
    story.end("ack", 1, "z")


def false_ack(story: Story) -> None:
    at = next(n for n, turn in enumerate(story.turns) if turn.what == "ack")
    story.turns[at] = changed(story.turns[at], what="back")
    story.hand("again", 1, 1, "z")
    story.end("ack", 1, "z")


def ack_of_nobody(story: Story) -> None:
    story.consumer = [r for r in story.consumer if not (isinstance(r, Step) and r.leases == ("a",))]


def derive_twice(story: Story) -> None:
    story.keep(DERIVED, "d1b", "p:1")


def derive_not(story: Story) -> None:
    story.journal[3] = changed(story.journal[3], cause="p:2")


def derive_of_poison(story: Story) -> None:
    story.keep(DERIVED, "d3", "p:3")


def miss_watched(story: Story) -> None:
    del story.watcher[2]


def watch_twice(story: Story) -> None:
    story.watcher.insert(2, story.watcher[1])


def watch_forged(story: Story) -> None:
    story.watcher[0] = Seen(1, "p:99")


def watch_out_of_order(story: Story) -> None:
    story.watcher[0], story.watcher[1] = story.watcher[1], story.watcher[0]


def fail(story: Story) -> None:
    story.publisher.append(Failed("Refused: it is full"))


def leases(record: Any) -> tuple[str, ...]:
    return record.leases if isinstance(record, Step) else (record.lease,)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_publication, "lost"),
        (renumber, "lost"),
        (lose_delivery, "lost"),
        (skip_handler, "lost"),
        (forge_event, "unexpected"),
        (forge_delivery, "unexpected"),
        (forge_lease, "unexpected"),
        (watch_forged, "unexpected"),
        (break_chain, "order"),
        (skip_number, "order"),
        (out_of_turn, "order"),
        (handed_out_of_turn, "order"),
        (journal_twice, "twice"),
        (lapse_early, "twice"),
        (two_at_once, "twice"),
        (same_lease_twice, "twice"),
        (after_its_ack, "twice"),
        (false_ack, "answers"),
        (ack_of_nobody, "answers"),
        (derive_twice, "derived"),
        (derive_not, "derived"),
        (derive_of_poison, "derived"),
        (miss_watched, "watched"),
        (watch_twice, "watched"),
        (watch_out_of_order, "watched"),
        (fail, "process"),
    ],
)
def test_what_is_planted_is_found(plant: Callable[[Story], None], kind: str) -> None:
    story = Story()
    plant(story)
    assert kind in check(story.history()).kinds


@pytest.mark.parametrize(
    "dead",
    [
        [],
        [Dead("g", "p:3", "it was refused")] * 2,
        [Dead("g", "p:3", "its consumer died")],
        [Dead("g", "p:3", "it was refused"), Dead("g", "p:1", "the lease ran out")],
    ],
    ids=["missing", "twice", "for another reason", "no poison"],
)
def test_dead_letters_that_are_wrong_are_found(dead: list[Dead]) -> None:
    assert "dead" in check(replace(Story().history(), dead=dead)).kinds
