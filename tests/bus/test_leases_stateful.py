"""Leases against a model of them: whatever is done in whatever order, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import schemas
from bus.errors import StaleLease
from bus.journal import Entry, Journal
from bus.settings import BrokerSettings
from tests.bus.kit import feedback

VISIBILITY = 10.0
SUSPECT = 2
"""Leases that ran out, from which on the next one counts."""


class Leases(RuleBasedStateMachine):
    """One group; the model knows of each event where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.journal = Journal(None, BrokerSettings(), clock=lambda: self.now)
        self.journal.leases.declare("g", ["feedback.given"], "earliest")
        self.count = 0
        self.waiting: dict[str, float] = {}
        self.fresh: set[str] = set()
        """Of those that wait: never leased."""
        self.held: dict[str, tuple[str, float]] = {}
        self.spent: list[str] = []
        self.failed: dict[str, int] = {}
        self.lapsed: dict[str, int] = {}
        self.done: set[str] = set()
        self.dead: set[str] = set()

    def teardown(self) -> None:
        self.journal.close()

    def do(self, call: Any, *arguments: Any) -> Any:
        self.journal.begin()
        try:
            result = call(*arguments)
        except BaseException:
            self.journal.rollback()
            raise
        self.journal.commit()
        return result

    def lapse(self) -> None:
        """What ran out goes back, and from the third time on it failed."""
        for lease, (name, until) in list(self.held.items()):
            if until <= self.now:
                del self.held[lease]
                self.spent.append(lease)
                self.lapsed[name] = self.lapsed.get(name, 0) + 1
                self.fail(name, self.now, self.lapsed[name] >= 3)

    def fail(self, name: str, due: float, counts: bool) -> None:
        self.failed[name] = self.failed.get(name, 0) + counts
        if self.failed[name] >= 5:
            self.dead.add(name)
        else:
            self.waiting[name] = due

    @rule()
    def publish(self) -> None:
        self.count += 1
        event = feedback(self.count)
        self.do(
            self.journal.append,
            [Entry(event.type, event.source, event.id, schemas.encode(event))],
        )
        self.waiting[event.id] = 0.0
        self.fresh.add(event.id)

    @rule(most=st.integers(1, 4))
    def lease(self, most: int) -> None:
        self.lapse()
        taken = self.do(
            self.journal.leases.lease, "g", ["feedback.given"], most, VISIBILITY, "earliest"
        )
        names = [schemas.decode(item.raw).id for item in taken]
        assert names == self.next(most)
        self.fresh.difference_update(names)
        for item, name in zip(taken, names, strict=True):
            del self.waiting[name]
            self.held[item.lease] = (name, self.now + VISIBILITY)

    def next(self, most: int) -> list[str]:
        """What waits goes first, by number; what may kill its consumer is leased alone."""
        due = [name for name, at in self.waiting.items() if at <= self.now]
        due = sorted(due, key=lambda name: (name in self.fresh, int(name[1:])))
        suspects = {name for name, count in self.lapsed.items() if count >= SUSPECT}
        if suspects.intersection(name for name, _ in self.held.values()):
            return [name for name in due if name not in suspects][:most]
        if due and due[0] in suspects:
            return due[:1]
        ahead = next((n for n, name in enumerate(due) if name in suspects), len(due))
        return (due[:ahead] + [name for name in due[ahead:] if name in self.fresh])[:most]

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def pick(self, data: st.DataObject) -> tuple[str, str]:
        lease = data.draw(st.sampled_from(sorted(self.held)))
        return lease, self.held[lease][0]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["ack", "nack", "defer", "extend"]))
    def end(self, data: st.DataObject, how: str) -> None:
        lease, name = self.pick(data)
        leases = self.journal.leases
        calls = {
            "ack": (leases.ack, [lease], [], b"a"),
            "nack": (leases.nack, lease, 2.0, "no", False, b"n"),
            "defer": (leases.defer, lease, self.now + 2.0, b"d"),
            "extend": (leases.extend, lease, VISIBILITY),
        }
        if self.held[lease][1] <= self.now:
            with pytest.raises(StaleLease):
                self.do(*calls[how])
            return
        self.do(*calls[how])
        if how == "extend":
            self.held[lease] = (name, self.now + VISIBILITY)
            return
        del self.held[lease]
        self.spent.append(lease)
        if how == "ack":
            self.done.add(name)
        elif how == "defer":
            self.waiting[name] = self.now + 2.0
        else:
            self.fail(name, self.now + 2.0, True)

    @precondition(lambda self: self.spent)
    @rule(data=st.data())
    def a_spent_lease_does_nothing(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.spent))
        with pytest.raises(StaleLease):
            self.do(self.journal.leases.ack, [lease], [], b"never seen")

    @rule()
    def expire(self) -> None:
        self.lapse()
        self.do(self.journal.leases.expire)

    @invariant()
    def every_event_is_somewhere(self) -> None:
        held = {name for name, _ in self.held.values()}
        everything = set(self.waiting) | held | self.done | self.dead
        assert everything == {f"f{n}" for n in range(1, self.count + 1)}

    @invariant()
    def dead_letters_agree(self) -> None:
        found = {schemas.decode(row.raw).id for row in self.journal.leases.dead("list", None, None)}
        # What ran out and was not looked at since is not buried yet.
        assert found == self.dead


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
