"""One node learns, the others are asked: does the first question that needs the skill bring it?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import FleetFailed
from benchmarks.kit.loop import Loop, Version
from benchmarks.kit.measure import Floats, figures, ranks_of
from benchmarks.learning.data import DataSet, Queries
from benchmarks.nodes.sites import LEARNER, Node
from schemas import CompletedRow, SkillCard, SkillDiscovered
from services.runtime.client import FleetClient
from services.runtime.settings import Settings

__all__ = [
    "DOMAIN",
    "First",
    "Pupil",
    "asked",
    "first_questions",
    "follow_offers",
    "learn",
    "made_by",
    "matching",
    "offered",
    "pupil",
    "recall",
    "restarted",
]

DOMAIN: Final = "banking"
FLOOR: Final = Settings().router.description_threshold
"""Cosine below which no other author's card is routed to, whatever it says of itself."""

OFFERED: Final = 60.0
"""Seconds until an offer should have reached every node."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class First:
    """A question, and how it was answered."""

    seconds: float
    skill: str | None
    """Digest of the card that answered."""
    reason: str | None
    """Why none did."""


@dataclass
class Pupil:
    """What a node that was taught nothing does with the learner's skill; recall is 0 to 1."""

    name: str
    stored: Floats
    """Vectors of the passages, embedded before anybody learned and never again."""
    before: float
    """Recall@1, route auto, before anybody learned."""
    processes: Mapping[str, int] = field(default_factory=dict)
    """The numbers of its processes then."""
    offered_s: float | None = None
    """From the skill's installation at the learner to its offer on this node's bus."""
    first: First | None = None
    second: First | None = None
    """The next one like it."""
    after: float | None = None
    """Recall@1, route auto."""
    routed: float | None = None
    """Share of the queries that the skill answered."""
    named: float | None = None
    """Recall@1, the skill named `learner/banking`."""
    restarted: tuple[str, ...] = ()
    """Processes that are not those of before."""


async def pupil(node: Node, data: DataSet, test: Queries) -> Pupil:
    """Give a node the passages, and see what it does with them."""
    stored = await node.client.encode(data.passages, role="document", route="base")
    found, _ = await recall(node.client, test, stored.vectors)
    return Pupil(node.name, stored.vectors, found, node.processes())


async def recall(
    client: FleetClient, test: Queries, stored: Floats, skill: str | None = None
) -> tuple[float, tuple[CompletedRow, ...]]:
    """Recall@1 of the queries, routed as the fleet likes or by the skill that is named."""
    found = await client.encode(test.texts, skills=() if skill is None else (skill,))
    return figures(ranks_of(found.vectors, stored, np.array(test.own))).recall, found.rows


async def learn(node: Node, data: DataSet, given: Queries, stored: Floats, limit: float) -> Version:
    """Give the learner this feedback, and wait for its verdict; the version that passed the gate.

    Raises `FleetFailed` where none did, or none within `limit` seconds.
    """
    vectors = (await node.client.encode(given.texts, route="base")).vectors
    events = feedback_events(
        node.bus.source, DOMAIN, given.texts, vectors, data.passages, stored, given.own
    )
    loop = Loop(node.bus, DOMAIN, body=False)
    async with loop.watching():
        await publish_all(node.bus, events)

        def decided() -> bool:
            node.fleet.check()
            return loop.decided(len(events), "head")

        if not await loop.until(decided, limit):
            raise FleetFailed(
                f"no verdict after {limit:.0f} s: {loop.judged} of {len(events)} pieces judged, "
                f"{len(loop.batches)} batches, {len(loop.tasks)} tasks"
            )
    if not loop.versions:
        why = "; ".join(it.reason for it in loop.refusals) or "nothing was to be learned"
        raise FleetFailed(f"the learner learned nothing that passes the gate: {why}")
    return loop.versions[-1]


@contextlib.asynccontextmanager
async def follow_offers(nodes: Sequence[Node]) -> AsyncIterator[dict[tuple[str, str], float]]:
    """When each card was first offered to each node, by the node's name and the digest."""
    seen: dict[tuple[str, str], float] = {}

    async def follow(node: Node) -> None:
        async with node.bus.watch(SkillDiscovered) as events:
            async for event in events:
                seen.setdefault((node.name, event.data.card.digest), time.monotonic())

    tasks = [asyncio.create_task(follow(node)) for node in nodes]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def offered(
    seen: Mapping[tuple[str, str], float], node: Node, card: SkillCard
) -> float | None:
    """When it was offered there, waited for; None where that does not happen."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OFFERED):
            while (node.name, card.digest) not in seen:  # noqa: ASYNC110  (others fill it)
                await asyncio.sleep(0.05)
    return seen.get((node.name, card.digest))


def matching(rows: Sequence[CompletedRow], digest: str, floor: float = FLOOR) -> list[int]:
    """The queries for which that skill is the best answer where it is another author's too."""
    return [
        place
        for place, row in enumerate(rows)
        if any(it.digest == digest and it.score > floor for it in row.skills)
    ]


async def asked(client: FleetClient, text: str, skill: str | None = None) -> First:
    """Ask one question."""
    started = time.monotonic()
    found = await client.encode([text], skills=() if skill is None else (skill,))
    row = found.rows[0]
    skills = [it.digest for it in row.skills]
    return First(time.monotonic() - started, skills[0] if skills else None, row.reason)


async def first_questions(
    node: Node, one: Pupil, card: SkillCard, texts: Sequence[str], test: Queries
) -> None:
    """The first questions of a node that need the skill, then all of them."""
    one.first = await asked(node.client, texts[0])
    one.second = await asked(node.client, texts[1 % len(texts)])
    one.after, rows = await recall(node.client, test, one.stored)
    one.routed = made_by(rows, card.digest)
    one.named, _ = await recall(node.client, test, one.stored, f"{LEARNER}/{card.name}")
    one.restarted = restarted(node, one)


def restarted(node: Node, one: Pupil) -> tuple[str, ...]:
    """The processes of a node that are not those which it had at first."""
    now = node.processes()
    return tuple(
        name for name in {**one.processes, **now} if one.processes.get(name) != now.get(name)
    )


def made_by(rows: Sequence[CompletedRow], digest: str) -> float:
    """Share of the rows that a card made, 0 to 1."""
    return sum(any(it.digest == digest for it in row.skills) for row in rows) / len(rows)
