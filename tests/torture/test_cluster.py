"""The cluster's storm in small, and what reads the states of its groups."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import nats
import pytest

from bus.nats.group import Group, Row
from tests.bus.nats_server import NatsServer, nats_binary
from tests.torture.cluster import outcome, witness
from tests.torture.cluster.schedule import MAJORITY, ClusterPlan
from tests.torture.cluster.servers import SERVERS
from tests.torture.cluster.storm import WITHOUT_MAJORITY
from tests.torture.journal.history import Dead

SMALL = ClusterPlan(
    seed=1,
    events=120,
    faults=3,
    storm=2.0,
    visibility=2.0,
    drain=40.0,
    refused=1,
    killers=0,
    unreadable=1,
    servers=False,
    without=(0.5,),
)


def test_a_small_storm() -> None:
    """Three servers of which two are frozen for a while, and processes that are killed: who leads
    changes in the long form alone, since NATS takes ten seconds for it."""
    nats_binary()
    found = outcome(SMALL, lambda line: None)
    assert not found.broken
    assert found.figures["events attempted"] == SMALL.events + WITHOUT_MAJORITY
    assert found.figures["publications refused without a majority"]
    # Two groups consume what the poison is, each has each once.
    assert found.figures["dead letters"] == 2 * (SMALL.refused + SMALL.unreadable)


def test_a_schedule_leaves_a_majority_up_but_where_it_says_so() -> None:
    plan = ClusterPlan(
        seed=3,
        events=1,
        faults=60,
        storm=360.0,
        visibility=4.0,
        drain=1.0,
        refused=0,
        killers=0,
        unreadable=0,
        without=(10.0, 10.0),
    )
    made = plan.schedule()
    assert made == plan.schedule()
    assert sum(fault.kind == MAJORITY for fault in made) == 2
    struck = [fault for fault in made if fault.target in SERVERS]
    assert {fault.kind for fault in struck} == {"kill", "stop", "freeze"}
    for before, after in pairwise(struck):
        assert before.at + before.lasts + plan.apart <= after.at


def states(*made: Group) -> list[Any]:
    """Messages of a group, as the stream would have them."""
    subject = witness.NAMES.group("g")
    return [
        SimpleNamespace(
            subject=subject,
            data=msgspec.json.encode(group),
            metadata=SimpleNamespace(sequence=SimpleNamespace(stream=number)),
        )
        for number, group in enumerate(made, 1)
    ]


async def test_a_state_that_came_too_late_is_not_the_group_though_it_is_the_last(
    tmp_path: Path,
) -> None:
    """Nobody writes another where all is done: taken for the group it would never be finished."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        client = await nats.connect(server.url)
        writer = client.jetstream()
        await writer.add_stream(name=witness.NAMES.groups, subjects=[witness.NAMES.group("g")])
        for each in (group(0, row("a")), group(1), group(1, row("b"))):
            await writer.publish(witness.NAMES.group("g"), msgspec.json.encode(each))
        found = await witness.state(client, "g")
        await client.close()
    finally:
        server.stop(kill=True)
    assert found == group(1)


async def test_the_witness_asks_again_where_a_server_stood_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reads what it asked for piece by piece: no storm ends without a verdict over it."""
    monkeypatch.setattr(witness, "ANSWER", 0.2)
    monkeypatch.setattr(witness, "BATCH", 3)
    server = NatsServer(tmp_path)
    server.start()
    try:
        client = await nats.connect(server.url)
        writer = client.jetstream()
        await writer.add_stream(name="many", subjects=["many.*"])
        for n in range(7):
            await witness.plant(client, f"many.{n}", b"")
        server.freeze()
        reading = asyncio.create_task(witness.stored(client, "many"))
        await asyncio.wait({reading}, timeout=0.5)
        assert not reading.done()
        server.thaw()
        found, counts = await reading
        assert [message.subject for message in found] == [f"many.{n}" for n in range(7)]
        assert list(counts.values()) == [7]
        await client.close()
    finally:
        server.stop(kill=True)


def test_servers_that_differ_are_told_of_and_so_is_one_that_is_silent() -> None:
    assert not witness.apart("s", dict.fromkeys(SERVERS, 3))
    assert witness.apart("s", dict.fromkeys(SERVERS, 3) | {SERVERS[1]: 4})
    assert witness.apart("s", dict.fromkeys(SERVERS[:2], 3))


def group(base: int, *rows: Row) -> Group:
    return Group(rows=list(rows), base=base)


def row(lease: str = "", due: float = 5.0, **more: Any) -> Row:
    return Row(1, "feedback.given", due, lease, **more)


@pytest.mark.parametrize(
    ("made", "dead", "expected"),
    [
        ([group(0, row("a")), group(1)], False, ["fresh a", "ack a"]),
        ([group(0, row("a")), group(1, row(failed=1))], False, ["fresh a", "nack a"]),
        ([group(0, row("a")), group(1, row())], False, ["fresh a", "back a"]),
        (
            [group(0, row("a")), group(1, row("b", 9.0, lapsed=1))],
            False,
            ["fresh a", "lapse a", "again b"],
        ),
        (
            [group(0, row("a")), group(1, row(dead="it failed")), group(2)],
            True,
            ["fresh a", "dead a"],
        ),
        ([group(0, row("a")), group(1), group(1, row("b"))], False, ["fresh a", "ack a"]),
        ([group(0, row()), group(1)], False, ["gone None"]),
    ],
    ids=["ack", "nack", "back", "lapse", "dead", "came too late", "gone"],
)
def test_turns_are_read_of_the_states(made: list[Group], dead: bool, expected: list[str]) -> None:
    letters = {("g", 1): Dead("g", "e", "it failed")} if dead else {}
    found = witness.turns(states(*made), letters, 4.0)
    names = [f"{turn.what} {turn.lease and turn.lease.removesuffix('.g')}" for turn in found]
    assert names == expected
