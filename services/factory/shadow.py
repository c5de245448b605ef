"""The comparison in the shadow: a version and the one before it, on the same later feedback.

The one before is of the same author, else the base model. Of another author's skill that serves
here, because this node has none of its own, the versions are watched like ours: what is worse than
the one before, or than no card at all, is retired on this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from bus import BusError, Closed
from lora.boundary import sides
from lora.training.calibration import routing_scores
from lora.training.dataset import FEEDBACK, Label, TrainingSet
from lora.training.errors import TrainingError
from lora.training.folds import assign_groups, fold_of
from lora.training.gate import Arena, Verdict, judge
from schemas import Event, SkillCard, SkillRetire, derived_id
from services.errors import ServiceError
from services.factory.feedback import FeedbackStore, Piece
from services.factory.versions import Version, VersionStore
from services.runtime.cards import boundary_of, prototypes_of
from services.runtime.client import FleetClient
from services.runtime.skill_index import claims

__all__ = ["FALSE_RATE", "Shadow", "compare", "confidence_of", "dataset_of"]

FALSE_RATE = 0.025
"""A version that is just as good as the one before it is retired with this probability at most,
however long it serves, as far as the bootstrap keeps what it promises."""

RESAMPLES = 20_000

Vector = npt.NDArray[np.float32]


class Shadow:
    """Looks at versions whose later feedback has come together."""

    def __init__(
        self,
        client: FleetClient,
        versions: VersionStore,
        feedback: FeedbackStore,
        seed: int,
        source: str,
        least: int,
        floor: float,
    ) -> None:
        """`least`: pieces of later feedback needed for a first look; `floor`: the router's
        `description_threshold`."""
        self._client = client
        self._versions = versions
        self._feedback = feedback
        self._seed = seed
        self._source = source
        self._least = least
        self._floor = floor
        self._log = structlog.get_logger(service="factory")

    async def look(self, skill: str) -> Event[SkillRetire] | None:
        """The order to retire the oldest version of a skill that proves worse, if one does.

        All that are in service or would come back are looked at, the oldest first: a bad version
        that was followed by another one before its feedback had come together must not return, nor
        be what its successor is measured by.
        """
        for version in self._versions.chain(skill):
            order = await self.look_at(version)
            # Somebody else may have retired it meanwhile.
            if order is not None and version.card.digest in self._serving(skill):
                return order
        return None

    def _serving(self, skill: str) -> set[str]:
        return {version.card.digest for version in self._versions.chain(skill)}

    async def look_at(self, version: Version) -> Event[SkillRetire] | None:
        """The order to retire a version that is significantly worse than the one before it.

        None where it is not, or where it is not yet time to look. The next look is at twice the
        feedback, and stricter: who looks at every piece finds a bad day some day. A version that
        was brought to this node by hand is looked at where it stands upon one of ours; another
        author's where queries can be routed to it: of what is asked for by name nobody is robbed.
        """
        card = version.card
        before = self._versions.below(version)
        if not self._watched(version, before):
            return None
        pieces = self._feedback.count_since(card.name, version.since)
        if pieces < max(version.next_look, self._least):
            return None
        try:
            verdict = await compare(
                self._client,
                self._feedback.since(card.name, version.since),
                card,
                None if before is None else before.card,
                seed=self._seed,
                confidence=confidence_of(version.looks),
                as_routed=self._as_routed,
            )
        except Closed:
            raise
        except (BusError, ServiceError, TrainingError) as error:
            self._log.info("versions not compared", skill=card.name, why=str(error))
            self._versions.look_again_at(version, pieces + max(1, pieces // 10), looked=False)
            return None
        self._versions.look_again_at(version, 2 * pieces)
        self._log.info(
            "versions compared", skill=card.name, version=card.version, why=verdict.reason
        )
        if not verdict.accepted:
            return None
        named = "the base model" if before is None else f"version {before.card.version}"
        whose = "" if card.signer is None else " of another author"
        serves = self._versions.newest(card.name, without=card.digest)
        reason = (
            f"version {card.version}{whose} is worse than {named} on {verdict.groups} query groups "
            f"of later feedback: MRR@10 {verdict.before:.3f} against {verdict.after:.3f}"
        )
        return Event(
            data=SkillRetire(
                name=card.name,
                version=card.version,
                digest=card.digest,
                reason=reason,
                successor=None if serves is None else serves.card.digest,
            ),
            source=self._source,
            id=derived_id(self._source, card.digest, SkillRetire.type),
            correlation_id=version.correlation,
            causation_id=version.cause,
        )

    def _watched(self, version: Version, before: Version | None) -> bool:
        if version.card.signer is not None:
            return version.card.threshold is not None
        return version.ours or (before is not None and before.ours)

    async def _as_routed(self, card: SkillCard, dim: int) -> SkillCard:
        """The card with the threshold that the router believes while its name means this card."""
        if card.signer is None or card.threshold is None:
            return card
        cards = [it.card for it in self._versions.in_service()]
        beside = [it for it in cards if it.name != card.name or it.digest == card.digest]
        found = await asyncio.to_thread(claims, beside, dim, self._floor)
        least = found.get(card.digest, 1.0)
        return msgspec.structs.replace(card, threshold=max(card.threshold, least))


async def compare(
    client: FleetClient,
    pieces: Sequence[Piece],
    present: SkillCard,
    before: SkillCard | None,
    *,
    seed: int = 0,
    confidence: float = 1.0 - FALSE_RATE,
    as_routed: Callable[[SkillCard, int], Awaitable[SkillCard]] | None = None,
) -> Verdict:
    """The gate's verdict on the version before (None: the base model) as challenger of the present.

    Both count as routed, as in the gate: a query that a card's threshold would not give it stays
    with the base model. Accepted means that the present one is significantly worse. The candidates
    are the passages of these pieces. `as_routed(card, dim)`: the card with the threshold that is
    believed; its own where None.
    Raises `EncodeFailedError` (`unknown_skill` where a version is gone), `bus.RequestTimeout`,
    `lora.training.errors.TrainingError` where nothing can be compared.
    """
    queries = list(dict.fromkeys(piece.query for piece in pieces))
    passages = list(
        dict.fromkeys(text for piece in pieces for text in piece.relevant + piece.irrelevant)
    )
    base = (await client.encode(queries, role="query", route="base")).vectors
    frozen = (await client.encode(passages, role="document", route="base")).vectors
    data = await asyncio.to_thread(dataset_of, pieces, queries, base, passages, frozen)

    async def served(card: SkillCard | None) -> Vector:
        if card is None:
            return base
        found = await client.encode(queries, role="query", route="named", skills=[card.digest])
        believed = card if as_routed is None else await as_routed(card, base.shape[1])
        return np.where(_routed(believed, base)[:, None], found.vectors, base)

    now, then = await served(present), await served(before)

    def ranked() -> Verdict:
        arena = Arena(data)
        rows = arena.rows
        return judge(
            arena.ranks(now[rows]),
            arena.ranks(then[rows]),
            arena.groups,
            seed=seed,
            resamples=RESAMPLES,
            confidence=confidence,
        )

    return await asyncio.to_thread(ranked)


def confidence_of(looks: int) -> float:
    """Confidence of the one-sided bootstrap in the look after so many.

    The looks share `FALSE_RATE`, 1 / (k (k + 1)) of it for the k-th: these sum up to 1 over
    any number of looks (a union bound, as in Lan and DeMets' alpha spending, 1983). Simulated with
    two equal versions and looks at 50, 100, … 3,200 pieces, 1 to 4 of 100 were retired; with the
    same 2.5 % at every look it were 13 to 16.
    """
    k = looks + 1
    return 1.0 - FALSE_RATE / (k * (k + 1))


def _routed(card: SkillCard, base: Vector) -> npt.NDArray[np.bool_]:
    """(n,) which queries with these base vectors the card answers; all with named use only."""
    prototypes = prototypes_of(card, base.shape[1])
    if card.threshold is None or prototypes is None:
        return np.ones(len(base), bool)
    routed: npt.NDArray[np.bool_] = routing_scores(base, prototypes) >= card.threshold
    routed &= sides(base, boundary_of(card, base.shape[1]))
    return routed


def dataset_of(
    pieces: Sequence[Piece],
    queries: Sequence[str],
    vectors: Vector,
    passages: Sequence[str],
    passage_vectors: Vector,
) -> TrainingSet:
    """The pieces as a dataset: where two disagree on a passage the later one holds."""
    groups = assign_groups(queries, vectors)
    row = {text: at for at, text in enumerate(queries)}
    column = {text: at for at, text in enumerate(passages)}
    values: dict[tuple[int, int], float] = {}
    for piece in pieces:
        for texts, value in ((piece.irrelevant, 0.0), (piece.relevant, 1.0)):
            values |= {(row[piece.query], column[text]): value for text in texts}
    labels: list[Label] = [(at, to, value, FEEDBACK) for (at, to), value in values.items()]
    return TrainingSet.build(
        queries=queries,
        query_vectors=vectors,
        groups=groups,
        folds=[fold_of(group) for group in groups.tolist()],
        passages=passages,
        passage_vectors=passage_vectors,
        labels=labels,
    )
