"""Which of a teacher's new queries and passages are trusted, and how far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.training.folds import fold_of, group_of
from lora.training.gate import LIKELY_RELEVANT, unit
from services.distiller.experience import Experience
from services.distiller.sifting import Taught
from services.distiller.spaces import BLOCK, Nearby, Space

__all__ = ["TOO_NEAR", "Generated", "Trust", "quality"]

TOO_NEAR = 0.95
"""A passage nearer to a query than this share of its positive's similarity, in a teacher's eyes,
is no safe negative (Moreira et al. 2024, NV-Retriever: TopK-PercPos)."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Generated:
    """A query that a teacher wrote, with the pairs of it that are trusted."""

    text: str
    group: int
    fold: int
    quality: float
    """Of its best pair, above 0, up to 1; its weight in training."""
    pairs: tuple[Taught, ...]


def quality(value: float, rank: int, allowed: int = 1) -> float:
    """How far a generated pair is trusted, 0 to 1: `value / log2(1 + max(1, rank - allowed + 1))`.

    `value` is the relevance that the teacher claims, `rank` that of the source passage for the
    query, discounted as in DCG (Järvelin and Kekäläinen 2002): a pair whose passage is ranked
    first is trusted wholly, at the tenth place by 0.29. `allowed`: the rank of the query from
    which a paraphrase derives, up to which nothing is taken off.
    """
    return value / math.log2(1 + max(1, rank - allowed + 1))


class Trust:
    """Judges by the teacher's own vectors where it has them, else by the base model's."""

    def __init__(
        self,
        experience: Experience,
        base: Space,
        spaces: Mapping[str, Space],
        query_vectors: Mapping[str, Vector],
        passage_vectors: Mapping[str, Vector],
        *,
        near_duplicate: float,
        round_trip: int,
    ) -> None:
        """`spaces` by the teacher's name; vectors (dim,) of all texts by the base model."""
        self._base, self._spaces = base, spaces
        self._queries, self._passages = query_vectors, passage_vectors
        self._threshold, self._top = near_duplicate, round_trip
        self._asked = {query.text: query for query in experience.queries}
        self._relevant = {
            query.text: frozenset(
                experience.passages[key] for key, value in query.labels.items() if value >= 0.5
            )
            for query in experience.queries
        }
        self._people: Nearby | None = None
        self.dropped: Counter[str] = Counter()
        """Pairs dropped, by why."""

    def generated(self, pairs: Sequence[Taught]) -> list[Generated]:
        """The queries that teachers wrote and that can be trusted, best first.

        Reasons to drop: `leak` (near to a person's query of another fold, or derived from one too),
        `near_duplicate` (of a person's query of its own fold, or of a better generated one),
        `round_trip`, and `no_positive` (a negative pair of a query that has no other).
        """
        by_query: dict[str, list[Taught]] = {}
        for taught in pairs:
            by_query.setdefault(taught.pair.query, []).append(taught)
        found = []
        texts = list(by_query)
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            origins = [taught.pair.origin or "" for text in block for taught in by_query[text]]
            for space in (self._base, *self._spaces.values()):
                space.hold([*block, *origins])
            for text, near in zip(block, self._near_people(block), strict=True):
                group, fold = self._place(by_query[text])
                said = [one for one in by_query[text] if self._is_of(fold, one)]
                self.dropped["leak"] += len(by_query[text]) - len(said)
                if near:
                    why = "leak" if near != {fold} else "near_duplicate"
                    self.dropped[why] += len(said)
                elif (kept := self._consistent(text, said)) is not None:
                    found.append(Generated(text, group, fold, *kept))
        found.sort(key=lambda one: (-one.quality, one.text))
        return self._distinct(found)

    def _place(self, said: Sequence[Taught]) -> tuple[int, int]:
        """Group and fold: its origin's; of a query made from a passage alone, its own.

        A question that was written with examples in sight asks for something else than they do: it
        lies in their fold, and in a group of its own.
        """
        own = group_of(said[0].pair.query)
        for taught in said:
            origin = self._asked.get(taught.pair.origin or "")
            if origin is not None:
                is_question = taught.pair.kind == "question"
                return own if is_question else origin.group, origin.fold
        return own, fold_of(own)

    def _is_of(self, fold: int, taught: Taught) -> bool:
        """It knows of no query of another fold: two folds may bring forth the same question."""
        origin = self._asked.get(taught.pair.origin or "")
        return origin is None or origin.fold == fold

    def _near_people(self, texts: Sequence[str]) -> list[set[int]]:
        """Folds of the people's queries that each text is a near-duplicate of."""
        asked = list(self._asked.values())
        if self._people is None:
            self._people = Nearby(self._threshold)
            for query in asked:
                self._people.add(query.text, self._queries[query.text])
        near = self._people.of(texts, [self._queries[text] for text in texts])
        return [{asked[number].fold for number in numbers} for numbers in near]

    def _consistent(
        self, text: str, said: Sequence[Taught]
    ) -> tuple[float, tuple[Taught, ...]] | None:
        """The query's quality and the pairs that came back; None where no positive one did."""
        positive = {one.pair.passage for one in said if one.pair.value >= 0.5}
        best, kept = 0.0, []
        for taught in said:
            if taught.pair.value < 0.5:
                kept.append(taught)
                continue
            score = self.round_trip(taught, positive)
            if score is None:
                self.dropped["round_trip"] += 1
            else:
                best = max(best, score)
                kept.append(taught)
        if best > 0:
            return best, tuple(kept)
        self.dropped["no_positive"] += len(kept)
        return None

    def round_trip(self, taught: Taught, apart: Set[str] = frozenset()) -> float | None:
        """The pair's quality; None where the query does not find its passage among the first few.

        A paraphrase may rank it as low as the query does from which it derives: that this is too
        low is why it is being learned. Passages `apart` do not compete.
        """
        pair = taught.pair
        space = self._space(taught)
        if pair.kind != "question":
            apart = apart | self._relevant.get(pair.origin or pair.query, frozenset())
        rank, allowed = space.rank(pair.query, pair.passage, apart), 1
        if pair.kind == "paraphrase" and space.knows(pair.origin or ""):
            allowed = space.rank(pair.origin or "", pair.passage, apart)
        if rank > max(self._top, allowed):
            return None
        return quality(pair.value, rank, allowed)

    def _space(self, taught: Taught) -> Space:
        space = self._spaces.get(taught.teacher)
        pair = taught.pair
        if space is not None and space.ranks and space.knows(pair.query, pair.passage):
            return space
        return self._base

    def _distinct(self, found: Sequence[Generated]) -> list[Generated]:
        """Of near-duplicates the first."""
        nearby, kept = Nearby(self._threshold), []
        for start in range(0, len(found), BLOCK):
            block = found[start : start + BLOCK]
            texts, vectors = [one.text for one in block], [self._queries[o.text] for o in block]
            before = nearby.of(texts, vectors)
            beside = Nearby(self._threshold)
            for text, vector in zip(texts, vectors, strict=True):
                beside.add(text, vector)
            chosen: set[int] = set()
            for at, (near, twins) in enumerate(zip(before, beside.of(texts, vectors), strict=True)):
                if near or twins & chosen:
                    self.dropped["near_duplicate"] += len(block[at].pairs)
                    continue
                chosen.add(at)
                kept.append(block[at])
                nearby.add(texts[at], vectors[at])
        return kept

    def is_negative(self, query: str, taught: Taught, positives: Iterable[str]) -> bool:
        """A passage that a teacher holds for irrelevant is safely that.

        Not so near to a positive as to be a likely relevant one: within 5 % of its base
        similarity, beyond 95 % of its similarity in the teacher's eyes, or a near-duplicate of it.
        """
        passage = taught.pair.passage
        for positive in positives:
            score, own = (self._base.cosine(query, text) for text in (positive, passage))
            if abs(own - score) <= LIKELY_RELEVANT * abs(score):
                return False
            pair = unit(np.stack([self._passages[positive], self._passages[passage]]))
            if float(pair[0] @ pair[1]) >= self._threshold:
                return False
            space = self._spaces.get(taught.teacher)
            if (
                space is not None
                and space.knows(query, positive)
                and space.knows(query, passage)
                and space.cosine(query, passage) > TOO_NEAR * space.cosine(query, positive)
            ):
                return False
        return True
