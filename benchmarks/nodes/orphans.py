"""The learner is killed: the others go on with what they have of it, and wait for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.kit.namespaces import Network
from benchmarks.learning.data import Queries
from benchmarks.nodes.lesson import First, Pupil, asked, made_by, recall
from benchmarks.nodes.sites import LEARNER, Node
from schemas import PeerLeft, SkillCard
from services.errors import EncodeFailedError

__all__ = ["Orphan", "Refusal", "killed"]

LEFT: Final = 90.0
"""Seconds until it should be known that a peer is gone."""

SPELL: Final = 3.0
"""Seconds after the learner's death for which questions are asked without a pause."""


@dataclass(frozen=True)
class Refusal:
    """How a version was refused that nobody has."""

    seconds: float
    code: str | None
    """wire.md's; None: it was answered."""


@dataclass
class Orphan:
    """A node without its teacher. All that is asked needs the skill."""

    name: str
    at_once: list[First] = field(default_factory=list)
    """From the moment of the learner's death on, by meaning and by name in turn."""
    left_s: float | None = None
    """From the learner's death until the node's bus was told of it."""
    later: list[First] = field(default_factory=list)
    """By meaning and by name, when it was."""
    restarted: list[First] = field(default_factory=list)
    """The same after the router was killed and started anew."""
    newer: list[Refusal] = field(default_factory=list)
    """A newer version, asked for by name, each time after those two."""
    recall: float | None = None
    """Recall@1 on the test queries, in the end."""
    routed: float | None = None


async def killed(
    network: Network,
    learner: Node,
    others: Sequence[tuple[Node, Pupil]],
    card: SkillCard,
    texts: Sequence[str],
    test: Queries,
) -> list[Orphan]:
    """Kill the learner and pull its cable; then ask the others."""
    async with contextlib.AsyncExitStack() as stack:
        gone = [await stack.enter_async_context(_goodbye(node)) for node, _ in others]
        network.cut(learner.number)
        learner.kill()
        began = time.monotonic()
        found = [Orphan(node.name) for node, _ in others]
        spells = zip(others, found, strict=True)
        await asyncio.gather(*(_ask_on(node, card, texts, one) for (node, _), one in spells))
        for future, one in zip(gone, found, strict=True):
            with contextlib.suppress(TimeoutError):
                one.left_s = await asyncio.wait_for(future, LEFT) - began
    for (node, pupil), one in zip(others, found, strict=True):
        one.later = await _both(node, card, texts)
        one.newer.append(await _newer(node, card))
        await node.restart("router")
        one.restarted = await _both(node, card, texts)
        one.newer.append(await _newer(node, card))
        one.recall, rows = await recall(node.client, test, pupil.stored)
        one.routed = made_by(rows, card.digest)
    return found


@contextlib.asynccontextmanager
async def _goodbye(node: Node) -> AsyncIterator[asyncio.Future[float]]:
    """When the node's bus is told that the learner left."""
    told: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def follow() -> None:
        async with node.bus.watch(PeerLeft) as events:
            async for event in events:
                if event.data.peer == LEARNER and not told.done():
                    told.set_result(time.monotonic())

    task = asyncio.create_task(follow())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ask_on(node: Node, card: SkillCard, texts: Sequence[str], one: Orphan) -> None:
    ends, number = time.monotonic() + SPELL, 0
    while time.monotonic() < ends:
        text = texts[number % len(texts)]
        one.at_once += [await asked(node.client, text, name) for name in (None, _name(card))]
        number += 1
        await asyncio.sleep(0.05)


async def _both(node: Node, card: SkillCard, texts: Sequence[str]) -> list[First]:
    return [await asked(node.client, texts[0], name) for name in (None, _name(card))]


async def _newer(node: Node, card: SkillCard) -> Refusal:
    started, code = time.monotonic(), None
    try:
        await asked(node.client, "what is new?", f"{_name(card)}@{card.version + 1}")
    except EncodeFailedError as error:
        code = error.code
    return Refusal(time.monotonic() - started, code)


def _name(card: SkillCard) -> str:
    return f"{LEARNER}/{card.name}"
