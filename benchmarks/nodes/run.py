"""One federation of so many nodes, from its making to the learner's death."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kit.fleet import FleetFailed, fresh_state
from benchmarks.kit.namespaces import Network
from benchmarks.learning.data import DataSet
from benchmarks.nodes.lesson import (
    Pupil,
    first_questions,
    follow_offers,
    learn,
    made_by,
    matching,
    offered,
    pupil,
    recall,
    restarted,
)
from benchmarks.nodes.orphans import Orphan, killed
from benchmarks.nodes.sites import Node, Site, lend_background, opened, prepare

__all__ = ["Federation", "Plan", "federation"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is the same for every federation."""

    feedback: int
    queries: int
    """Drawn from the test set."""
    seed: int
    limit: float
    """Seconds for the learner's verdict."""
    model: str | None = None
    logs: Path | None = None
    """Folder that keeps the fleets' logs."""


@dataclass
class Federation:
    """What came of one."""

    nodes: int
    ready_s: float = 0.0
    """Until every fleet was ready."""
    learned_s: float = 0.0
    """From the first piece of feedback to the card's installation."""
    card: str = ""
    """`banking@2`."""
    card_bytes: int = 0
    matching: int = 0
    """Test queries for which the skill is the best answer."""
    learner: float = 0.0
    """Recall@1 of the learner itself, route auto, after it has learned."""
    routed: float = 0.0
    """Share of the test queries that the learner itself answers with it."""
    digest: str = ""
    restarted: tuple[str, ...] = ()
    """Processes of the learner's that are not those of before."""
    pupils: list[Pupil] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)


async def federation(count: int, data: DataSet, plan: Plan, say: Say) -> Federation:
    """Raises `FleetFailed` where a fleet does not start, or nothing is learned."""
    found = Federation(count)
    test = data.test.sample(min(plan.queries, len(data.test)), plan.seed)
    given = data.train.sample(plan.feedback, plan.seed)
    async with contextlib.AsyncExitStack() as stack:
        network = stack.enter_context(Network(count))
        folder = stack.enter_context(fresh_state())
        say(f"{count} nodes: keys, certificates, trust")
        sites = await prepare(folder, count)
        began = time.monotonic()
        nodes = await _start(stack, network, sites, plan, say)
        found.ready_s = time.monotonic() - began
        learner, *others = nodes
        say(f"{count} nodes: before anybody has learned")
        teacher, *pupils = [await pupil(node, data, test) for node in nodes]
        found.pupils = pupils
        async with follow_offers(others) as seen:
            say(f"{count} nodes: learning from {plan.feedback} pieces")
            began = time.monotonic()
            version = await learn(learner, data, given, teacher.stored, plan.limit)
            card, found.learned_s = version.card, version.installed - began
            found.card, found.card_bytes = f"{card.name}@{card.version}", card.bytes
            found.digest = card.digest
            for node, one in zip(others, pupils, strict=True):
                at = await offered(seen, node, card)
                one.offered_s = None if at is None else max(0.0, at - version.installed)
        found.learner, rows = await recall(learner.client, test, teacher.stored)
        found.restarted = restarted(learner, teacher)
        found.routed = made_by(rows, card.digest)
        texts = [test.texts[place] for place in matching(rows, card.digest)]
        found.matching = len(texts)
        if not texts:
            raise FleetFailed("the skill is routed to for none of the test queries: nothing to ask")
        for node, one in zip(others, pupils, strict=True):
            say(f"{count} nodes: the first questions of {node.name}")
            await first_questions(node, one, card, texts, test)
        say(f"{count} nodes: the learner is killed")
        both = list(zip(others, pupils, strict=True))
        found.orphans = await killed(network, learner, both, card, texts, test)
        say(f"{count} nodes: the end")
    return found


async def _start(
    stack: contextlib.AsyncExitStack, network: Network, sites: list[Site], plan: Plan, say: Say
) -> list[Node]:
    nodes: list[Node] = []
    for number, site in enumerate(sites):
        say(f"{len(sites)} nodes: starting {site.name}")
        log = None
        if plan.logs is not None:
            log = plan.logs / f"{len(sites)}-{site.name}.log"
        running = opened(network, site, number, model=plan.model, log=log)
        nodes.append(await stack.enter_async_context(running))
        if not number:
            await lend_background(site, sites[1:])
    return nodes
