"""One fleet learns the domains one after another, then everything is asked with `route: auto`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kit.feedback import feedback_events, publish_all
from benchmarks.kit.fleet import RunningFleet, fresh_state, running_fleet, settings_file
from benchmarks.kit.loop import Loop
from benchmarks.kit.measure import Figures, Gain, figures, paired_gain, ranks_of, reciprocal
from benchmarks.routing.domains import Domain
from bus import Bus, connect
from services.runtime.client import Encoded, FleetClient

__all__ = ["BASE", "UNRELATED", "Learned", "Outcome", "confusion_of", "routing_run"]

BASE = "base"
UNRELATED = "unrelated"
Say = Callable[[str], None]
Floats = npt.NDArray[np.float32]


@dataclass
class Learned:
    """A domain: what its skill says of itself, and what its held-out queries found."""

    domain: str
    versions: int = 0
    named_only: bool = False
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    """Of the newest version's card."""
    refusals: list[str] = field(default_factory=list)
    base: Figures | None = None
    named: Figures | None = None
    """By the skill's name; the base model's where there is no skill."""
    routed: Figures | None = None
    gain: Gain | None = None
    """Of MRR@10, routed against base."""
    share: float = 0.0
    """Held-out queries that came to the domain's own skill, 0 to 1."""


@dataclass
class Outcome:
    """Everything that one run found."""

    learned: list[Learned]
    confusion: dict[str, dict[str, int]]
    """Of each domain, and of the unrelated, how many queries came to which skill, or the base."""
    reasons: dict[str, int]
    """Why the base model answered."""
    accuracy: float
    """Share of all queries that came to their own skill, the unrelated to the base model."""
    false_routed: float
    """Share of the unrelated that came to any skill."""
    taken: list[tuple[str, str]]
    """Unrelated queries that a skill answered, and which."""


async def routing_run(
    domains: Sequence[Domain],
    unrelated: Sequence[str],
    settings: dict[str, dict[str, Any]],
    say: Say,
    *,
    limit: float = 900.0,
    log: Path | None = None,
) -> Outcome:
    """Raises `FleetFailed`, `TimeoutError` where no verdict comes within `limit` seconds."""
    with fresh_state() as state:
        config = settings_file(state, settings)
        async with (
            running_fleet(state, config=config, log=log) as fleet,
            await connect(fleet.bus, source="/benchmark/1") as bus,
        ):
            client = FleetClient(bus, deadline_ms=300_000)
            learned = [await _learn(domain, bus, fleet, client, limit, say) for domain in domains]
            return await _measure(domains, unrelated, learned, client, say)


async def _learn(
    domain: Domain, bus: Bus, fleet: RunningFleet, client: FleetClient, limit: float, say: Say
) -> Learned:
    say(f"{domain.name}: embedding")
    given = domain.feedback
    stored = (await client.encode(domain.passages, role="document", route="base")).vectors
    asked = (await client.encode(given.texts, route="base")).vectors
    events = feedback_events(
        bus.source, domain.name, given.texts, asked, domain.passages, stored, given.own
    )
    loop = Loop(bus, domain.name, body=False)
    async with loop.watching():
        await publish_all(bus, events)
        say(f"{domain.name}: {len(events)} pieces of feedback given, waiting for the verdict")

        def decided() -> bool:
            fleet.check()
            return loop.decided(len(events), "head")

        if not await loop.until(decided, limit):
            raise TimeoutError(f"no verdict on {domain.name} after {limit:.0f} s")
    found = Learned(domain.name, len(loop.versions))
    found.refusals = [refusal.reason for refusal in loop.refusals]
    if loop.versions:
        card = loop.versions[-1].card
        found.named_only, found.metrics = card.threshold is None, dict(card.metrics)
    return found


async def _measure(
    domains: Sequence[Domain],
    unrelated: Sequence[str],
    learned: list[Learned],
    client: FleetClient,
    say: Say,
) -> Outcome:
    # One mixture in one stream of requests, as clients would ask.
    say("routing the mixture")
    texts = [text for domain in domains for text in domain.held_out.texts] + list(unrelated)
    origins = [domain.name for domain in domains for _ in domain.held_out.texts]
    origins += [UNRELATED] * len(unrelated)
    order = np.random.default_rng(0).permutation(len(texts))
    mixed = await client.encode([texts[at] for at in order], route="auto")
    places = np.argsort(order)
    answers = [_answer(mixed, place) for place in places.tolist()]
    vectors = mixed.vectors[places]
    start = 0
    for domain, found in zip(domains, learned, strict=True):
        say(f"{domain.name}: base and named")
        end = start + len(domain.held_out)
        await _figures(domain, found, vectors[start:end], client)
        found.share = float(np.mean([domain.name == it for it in answers[start:end]]))
        start = end
    right = [
        it == (BASE if of == UNRELATED else of) for of, it in zip(origins, answers, strict=True)
    ]
    reasons: dict[str, int] = {}
    for row in mixed.rows:
        if row.reason is not None:
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    taken = [
        (text, it) for text, it in zip(texts[start:], answers[start:], strict=True) if it != BASE
    ]
    return Outcome(
        learned,
        confusion_of(origins, answers),
        reasons,
        float(np.mean(right)),
        len(taken) / max(1, len(unrelated)),
        taken,
    )


def confusion_of(origins: Sequence[str], answers: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many queries of each origin came to which skill."""
    counts: dict[str, dict[str, int]] = {}
    for origin, answer in zip(origins, answers, strict=True):
        row = counts.setdefault(origin, {})
        row[answer] = row.get(answer, 0) + 1
    return counts


def _answer(found: Encoded, row: int) -> str:
    skills = found.rows[row].skills
    return skills[0].name if skills else BASE


async def _figures(domain: Domain, found: Learned, routed: Floats, client: FleetClient) -> None:
    own = np.array(domain.held_out.own)
    texts = domain.held_out.texts
    stored = (await client.encode(domain.passages, role="document", route="base")).vectors
    base = ranks_of((await client.encode(texts, route="base")).vectors, stored, own)
    named = base
    if found.versions:
        answer = await client.encode(texts, skills=(domain.name,))
        named = ranks_of(answer.vectors, stored, own)
    by_route = ranks_of(routed, stored, own)
    found.base, found.named, found.routed = figures(base), figures(named), figures(by_route)
    found.gain = paired_gain(reciprocal(base), reciprocal(by_route))
