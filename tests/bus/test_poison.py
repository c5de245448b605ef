"""An event that kills who handles it becomes a dead letter; those that were with it do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import schemas
from bus.journal import Entry, Journal
from bus.journal.leases import Leased
from bus.settings import BrokerSettings
from tests.bus.kit import feedback

VISIBILITY = 10.0


class Group:
    """A journal with some events, a clock, and consumers that die of `f3`."""

    def __init__(self, settings: BrokerSettings, count: int) -> None:
        self.now = 1_000_000.0
        self.journal = Journal(None, settings, clock=lambda: self.now)
        self.finished: list[str] = []
        for n in range(count):
            event = feedback(n)
            entry = Entry(event.type, event.source, event.id, schemas.encode(event))
            self.do(self.journal.append, [entry])

    def do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.journal.begin()
        result = call(*arguments)
        self.journal.commit()
        return result

    def lease(self, most: int) -> dict[str, Leased]:
        leases = self.journal.leases
        taken = self.do(leases.lease, "g", ["feedback.given"], most, VISIBILITY, "earliest")
        return {schemas.decode(item.raw).id: item for item in taken}

    def live(self, most: int, requests: int) -> None:
        """A consumer that asks so often before it handles anything, and perhaps dies of it."""
        held: dict[str, Leased] = {}
        for _ in range(requests):
            held |= self.lease(most - len(held))
        if "f3" in held:
            self.now += VISIBILITY + 1  # it is dead, and what it held runs out
            return
        for name, item in held.items():
            self.do(self.journal.leases.ack, [item.lease], [], name.encode())
            self.finished.append(name)

    def dead(self) -> list[str]:
        rows = self.journal.leases.dead("list", None, None)
        return [schemas.decode(row.raw).id for row in rows]


@pytest.mark.parametrize("free_lapses", [0, 2])
@pytest.mark.parametrize("requests", [1, 3])
def test_only_the_killer_is_buried(free_lapses: int, requests: int) -> None:
    group = Group(BrokerSettings(free_lapses=free_lapses, max_deliveries=5), count=12)
    for _ in range(60):
        group.live(most=8, requests=requests)
    assert group.dead() == ["f3"]
    assert sorted(group.finished) == sorted(f"f{n}" for n in range(12) if n != 3)
    group.journal.close()


def test_a_suspect_holds_up_suspects_only() -> None:
    group = Group(BrokerSettings(free_lapses=1), count=4)
    assert list(group.lease(2)) == ["f0", "f1"]
    group.now += VISIBILITY + 1
    first = group.lease(4)
    assert list(first) == ["f0"]
    assert list(group.lease(4)) == ["f2", "f3"]  # f1 waits until f0 has ended
    assert group.lease(4) == {}
    group.journal.leases.freed = False
    group.do(group.journal.leases.ack, [first["f0"].lease], [], b"0")
    assert group.journal.leases.freed  # who waits for a lease is woken
    assert list(group.lease(4)) == ["f1"]
    group.journal.close()
