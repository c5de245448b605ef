"""From a domain's experience and what teachers say of it to a training dataset; nothing waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.training.dataset import FEEDBACK, Label, TrainingSet
from services.distiller.experience import Experience, Query
from services.distiller.mining import CERTAIN, mined, softened
from services.distiller.sifting import GENERATED, Sifted, Taught, sift
from services.distiller.spaces import Space
from services.distiller.teacher import Contribution, Kind
from services.distiller.trust import Generated, Trust
from services.runtime.settings import DistillerSettings

__all__ = ["Distilled", "SkillDistiller", "Vectors"]

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """Base vectors (dim,) by text."""

    queries: Mapping[str, Vector]
    passages: Mapping[str, Vector]


@dataclass(frozen=True)
class Distilled:
    """A dataset, and what came of everything that might have entered it."""

    data: TrainingSet
    sources: Mapping[str, int]
    """Labels by where they came from: `batch`, `replay`, `mined`, and such as `openai.grade`."""
    learnable: frozenset[str]
    """People's queries in it, each with a relevant passage."""


class SkillDistiller:
    """Joins people's feedback, what teachers add to it, and mined negatives into one dataset.

    What people said of a pair always holds. A teacher's query stands in the fold of the query from
    which it derives; what would let a fold be learned from another one is dropped, and so is what
    does not find its own way back (`services.distiller.trust`). All counts stand in the metadata:
    `kept.<source>` labels, `dropped.<why>` pairs, and people's queries to which nothing is relevant
    (`dropped.without_relevant`); their passages stay as candidates.
    """

    def __init__(self, rules: DistillerSettings) -> None:
        self._rules = rules

    def needed(
        self, experience: Experience, lessons: Mapping[str, Contribution]
    ) -> tuple[list[str], list[str]]:
        """The queries and the passages whose base vectors `distill` needs; `lessons` as there."""
        pairs = self._sift(experience, lessons).pairs
        queries = [query.text for query in experience.queries]
        passages = list(experience.passages.values())
        return (
            list(dict.fromkeys(queries + [taught.pair.query for taught in pairs])),
            list(dict.fromkeys(passages + [taught.pair.passage for taught in pairs])),
        )

    def distill(
        self,
        experience: Experience,
        lessons: Mapping[str, Contribution],
        vectors: Vectors,
        *,
        batch: Collection[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> Distilled:
        """Make the dataset of a domain.

        `lessons`: what each teacher ever said of it, by the teacher's name, the one whose vectors
        make soft labels first. `batch`: the queries that count as of the batch, not as replay.
        Raises `lora.training.errors.DatasetError`.
        """
        sifted = self._sift(experience, lessons)
        work = _Work(self._rules, experience, lessons, sifted, vectors)
        work.people()
        work.generated()
        work.spoken()
        return work.done(set(batch), metadata or {})

    def _sift(self, experience: Experience, lessons: Mapping[str, Contribution]) -> Sifted:
        return sift(experience, lessons, self._rules.longest)


class _Work:
    """One dataset in the making: rows, and one label for each pair of query and passage."""

    def __init__(
        self,
        rules: DistillerSettings,
        experience: Experience,
        lessons: Mapping[str, Contribution],
        sifted: Sifted,
        vectors: Vectors,
    ) -> None:
        self._rules, self._experience, self._vectors = rules, experience, vectors
        self._pairs = sifted.pairs
        known = list(dict.fromkeys(experience.passages.values()))
        base = Space(vectors.queries, vectors.passages, known)
        self._spaces = {
            teacher: Space(lesson.vectors, lesson.vectors, known)
            for teacher, lesson in lessons.items()
            if lesson.vectors
        }
        self._trust = Trust(
            experience,
            base,
            self._spaces,
            vectors.queries,
            vectors.passages,
            near_duplicate=rules.near_duplicate,
            round_trip=rules.round_trip,
        )
        self._dropped = sifted.dropped + Counter()
        self._place = {text: column for column, text in enumerate(known)}
        self._sources = [FEEDBACK] * len(known)
        self._generated: list[Generated] = []
        self._labels: dict[tuple[str, str], tuple[float, str]] = {}
        self._trusted: dict[str, float] = {}
        """Quality of the best positive that a teacher gave to a person's query."""

    def people(self) -> None:
        """What people said."""
        for query in self._experience.queries:
            for key, value in sorted(query.labels.items()):
                pair = (query.text, self._experience.passages[key])
                self._labels[pair] = (value, FEEDBACK)

    def generated(self) -> None:
        """Queries that teachers wrote."""
        new = [one for one in self._pairs if one.pair.kind in GENERATED]
        self._generated = self._trust.generated(new)
        for query in self._generated:
            for taught in query.pairs:
                self._say(taught, taught.pair.value)

    def spoken(self) -> None:
        """What teachers said of people's queries: grades, answers, then hard negatives."""
        for taught in self._of("grade"):
            value = min(CERTAIN, taught.pair.value)
            if self._say(taught, value) and value >= 0.5:
                self._trust_in(taught.pair.query, value)
        for taught in self._of("answer"):
            score = self._trust.round_trip(taught)
            if score is None:
                self._dropped["round_trip"] += 1
            elif self._say(taught, min(CERTAIN, taught.pair.value)):
                self._trust_in(taught.pair.query, score)
        positive = self._positive()
        for taught in self._of("hard_negative"):
            if taught.pair.query not in positive:
                self._dropped["no_positive"] += 1
            elif self._trust.is_negative(taught.pair.query, taught, positive[taught.pair.query]):
                self._say(taught, taught.pair.value)
            else:
                self._dropped["likely_relevant"] += 1

    def _of(self, kind: Kind) -> list[Taught]:
        return [taught for taught in self._pairs if taught.pair.kind == kind]

    def _positive(self) -> dict[str, set[str]]:
        """The passages that somebody finds relevant, by query."""
        found: dict[str, set[str]] = {}
        for (query, passage), (value, _) in self._labels.items():
            if value >= 0.5:
                found.setdefault(query, set()).add(passage)
        return found

    def _trust_in(self, query: str, score: float) -> None:
        self._trusted[query] = max(score, self._trusted.get(query, 0.0))

    def _say(self, taught: Taught, value: float) -> bool:
        """Label a pair, unless a person did, or another teacher's pair before this one."""
        pair = taught.pair
        said = self._labels.get((pair.query, pair.passage))
        if said is not None:
            why = "said_by_people" if said[1] == FEEDBACK else "repeated"
            self._dropped[why] += 1
            return False
        if pair.passage not in self._place:
            self._place[pair.passage] = len(self._place)
            self._sources.append(taught.source)
        self._labels[pair.query, pair.passage] = (value, taught.source)
        return True

    def done(self, batch: Collection[str], metadata: Mapping[str, str]) -> Distilled:
        """The dataset of everything that was said, with what can be derived from it."""
        positive = self._positive()
        people = [query for query in self._experience.queries if query.text in positive]
        rows: list[Query | Generated] = [*people, *self._generated]
        texts = [row.text for row in rows]
        labels = self._numbered(texts)
        labels += self._soft(texts, labels)
        known = [column for column, source in enumerate(self._sources) if source == FEEDBACK]
        spaces = list(self._spaces.values())
        found = self._dataset(rows, labels, {})
        labels += mined(found, self._rules.hard_negatives, spaces, known)
        kept = sorted(Counter(source for _, _, _, source in labels).items())
        notes = {
            **metadata,
            **{f"kept.{source}": str(count) for source, count in kept},
            **{f"dropped.{why}": str(count) for why, count in self._lost(texts).items()},
        }
        sources = Counter({"batch": 0, "replay": 0})
        for row, _, _, source in labels:
            if source == FEEDBACK:
                source = "batch" if texts[row] in batch else "replay"
            sources[source] += 1
        data = self._dataset(rows, labels, notes)
        return Distilled(data, dict(sources), frozenset(query.text for query in people))

    def _numbered(self, texts: Sequence[str]) -> list[Label]:
        """What was said of these queries, in their order."""
        row = {text: at for at, text in enumerate(texts)}
        labels = [
            (row[query], self._place[passage], value, source)
            for (query, passage), (value, source) in self._labels.items()
            if query in row
        ]
        return sorted(labels, key=lambda label: label[0])

    def _lost(self, texts: Collection[str]) -> dict[str, int]:
        """What is not in the dataset, by why."""
        inside = set(texts)
        dropped = self._dropped + self._trust.dropped
        dropped["no_positive"] += sum(
            source != FEEDBACK and query not in inside
            for (query, _), (_, source) in self._labels.items()
        )
        asked = (query.text for query in self._experience.queries)
        dropped["without_relevant"] += sum(text not in inside for text in asked)
        return dict(sorted(dropped.items()))

    def _dataset(
        self,
        rows: Sequence[Query | Generated],
        labels: Sequence[Label],
        metadata: Mapping[str, str],
    ) -> TrainingSet:
        named = {
            query
            for (query, _), (value, source) in self._labels.items()
            if value >= 0.5 and source == FEEDBACK
        }
        return TrainingSet.build(
            queries=[row.text for row in rows],
            query_vectors=self._stack([self._vectors.queries[row.text] for row in rows]),
            groups=[row.group for row in rows],
            folds=[row.fold for row in rows],
            weights=[self._weight(row, named) for row in rows],
            passages=list(self._place),
            passage_vectors=self._stack([self._vectors.passages[text] for text in self._place]),
            passage_sources=self._sources,
            labels=labels,
            metadata=metadata,
        )

    def _weight(self, row: Query | Generated, named: Collection[str]) -> float:
        """1 where a person named something relevant, else how far the teacher is trusted."""
        if isinstance(row, Generated):
            return row.quality
        return 1.0 if row.text in named else self._trusted[row.text]

    def _stack(self, vectors: Sequence[Vector]) -> Vector:
        if vectors:
            return np.stack(vectors)
        one = next(iter(self._vectors.passages.values()), np.zeros(1, np.float32))
        return np.zeros((0, len(one)), np.float32)

    def _soft(self, texts: Sequence[str], labels: Sequence[Label]) -> list[Label]:
        """Soft labels by the vectors of the first teacher that can rank."""
        for teacher, space in self._spaces.items():
            if space.ranks:
                said: dict[int, dict[int, float]] = {}
                for at, passage, value, _ in labels:
                    said.setdefault(at, {})[passage] = value
                return softened(
                    texts,
                    self._place,
                    said,
                    space,
                    f"{teacher}.vectors",
                    self._rules.soft_labels,
                    self._rules.soft_temperature,
                )
        return []
