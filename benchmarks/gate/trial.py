"""One seed: batches drawn, poisoned, learned by the factory's recipe, judged by its gate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.gate.conditions import Condition, Labels, poisoned
from benchmarks.gate.material import DESCRIPTION, DOMAIN, Material
from benchmarks.kit.measure import Figures, Gain, figures, paired_gain, ranks_of, reciprocal
from benchmarks.learning.data import Queries
from benchmarks.learning.reference import Vectors, training_set
from lora.head import bend
from lora.training.candidate import Candidate, CandidateRequest, head_candidate
from lora.training.champion import Champion, routes
from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.folds import assign_groups, fold_of
from services.runtime.settings import Settings

__all__ = ["ANCHORS", "Trial", "one_seed", "trials"]

ANCHORS = 256
"""Trusted pairs, right ones, drawn from what is not given as feedback."""

FIRST = "clean"
"""The condition whose version is served when a second batch arrives."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one batch came to. Figures are of all held-out queries, their labels right."""

    condition: str
    seed: int
    skipped: bool = False
    """There was no version to be served first: nothing was tried."""
    published: bool = False
    named_only: bool = False
    """Published without a threshold: applied where it is named, and measured so."""
    reason: str = ""
    groups: int = 0
    gate_before: float | None = None
    """MRR@10 on the feedback, as the gate saw it."""
    gate_after: float | None = None
    low: float | None = None
    """Lower end of the gate's interval of the gain."""
    tried: int = 0
    """Settings there was time for."""
    before: Figures | None = None
    """As served until then."""
    after: Figures | None = None
    """As it would be served with the candidate, whether it passed or not; None: no change."""
    gain: Gain | None = None
    """Of MRR@10, after over before, with its two-sided 95 % interval."""
    seconds: float = 0.0

    @property
    def worse(self) -> bool:
        """Lower in recall@1 or in MRR@10 than what was served, by however little."""
        if self.before is None or self.after is None:
            return False
        return self.after.recall < self.before.recall or self.after.mrr < self.before.mrr

    @property
    def better(self) -> bool:
        """Higher in both than what was served."""
        if self.before is None or self.after is None:
            return False
        return self.after.recall > self.before.recall and self.after.mrr > self.before.mrr

    @property
    def surely_worse(self) -> bool:
        """Lower in MRR@10 with the whole interval."""
        return self.gain is not None and self.gain.high < 0


def one_seed(
    folder: Path, conditions: tuple[Condition, ...], seed: int, feedback: int
) -> list[Trial]:
    """`trials` of the material in a folder, in a process of its own."""
    return trials(Material.read(folder), conditions, seed, feedback)


def trials(
    material: Material, conditions: Iterable[Condition], seed: int, feedback: int
) -> list[Trial]:
    """All conditions with one draw of feedback; the first batch is the same for all of them."""
    return _Seed(material, seed, feedback).run(list(conditions))


class _Seed:
    def __init__(self, material: Material, seed: int, feedback: int) -> None:
        self.material, self.seed = material, seed
        everyone = len(material.data.train)
        drawn = np.random.default_rng(seed).permutation(everyone)
        self.batches = drawn[:feedback], drawn[feedback : 2 * feedback]
        self.trusted = drawn[2 * feedback : 2 * feedback + ANCHORS]
        self.own = np.array(material.data.test.own)
        self.settings = Settings().factory

    def run(self, conditions: list[Condition]) -> list[Trial]:
        first, champion = self.one(Condition(name=FIRST, title="", labels="clean"), None)
        found = []
        for condition in conditions:
            if condition.name == FIRST:
                found.append(first)
            elif condition.after and champion is None:
                found.append(Trial(condition=condition.name, seed=self.seed, skipped=True))
            else:
                found.append(self.one(condition, champion if condition.after else None)[0])
        return found

    def one(self, condition: Condition, champion: Champion | None) -> tuple[Trial, Champion | None]:
        """The trial, and the version that is served after it if it passed."""
        began = time.monotonic()
        whole = self.learned(condition.labels, champion is not None)
        for look in range(1, condition.looks + 1):
            data = whole
            if look < condition.looks:
                data = _beginning(whole, round(len(whole.queries) * look / condition.looks))
            candidate = self.judged(data, condition, champion, look)
            if candidate.accepted:
                break
        seconds = time.monotonic() - began
        made = None
        if candidate.card is not None:
            made = Champion(candidate.card, candidate.folds, np.unique(data.groups))
        trial = self.measured(condition, champion, candidate, made, seconds)
        return trial, made if candidate.accepted else None

    def judged(
        self, data: TrainingSet, condition: Condition, champion: Champion | None, look: int
    ) -> Candidate:
        """What the factory's child would make of it."""
        return head_candidate(
            CandidateRequest(
                data=data,
                skill=DOMAIN,
                version=1 if champion is None else champion.card.version + 1,
                base_model=self.material.base_model,
                data_digest=f"sha256:{0:064x}",  # the dataset never becomes a file
                champion=champion,
                description=DESCRIPTION,
                description_vector=self.material.description,
                negatives=self.material.background,
                anchors=self.anchors() if condition.anchors else None,
                attempts=look,  # counted since the present version was published
                seed=self.settings.seed,
                time_budget_s=self.settings.head_time_budget,
                settings={"temperature": self.settings.temperature},
            )
        )

    def learned(self, labels: Labels, after: bool) -> TrainingSet:
        """The batch's dataset; a second batch joins the first one, which was right."""
        told: list[tuple[int, int]] = []
        for number, rows in enumerate(self.batches[: 1 + after]):
            own = [self.material.data.train.own[row] for row in rows]
            poison: Labels = labels if number == int(after) else "clean"
            generator = np.random.default_rng((self.seed, number))
            own = list(poisoned(own, poison, len(self.material.data.passages), generator))
            told += zip(rows.tolist(), own, strict=True)
        texts = self.material.data.train.texts
        given = Queries(tuple(texts[row] for row, _ in told), tuple(own for _, own in told))
        vectors = self.material.train[[row for row, _ in told]]
        return training_set(
            self.material.data,
            given,
            Vectors(self.material.passages, vectors, self.material.held_out),
        )

    def anchors(self) -> TrainingSet:
        """Trusted pairs as the factory lays them down: queries and the passages they belong to."""
        data, rows = self.material.data, self.trusted
        queries = [data.train.texts[row] for row in rows]
        vectors = self.material.train[rows]
        named = sorted({data.train.own[row] for row in rows})
        groups = assign_groups(queries, vectors)
        return TrainingSet.build(
            queries=queries,
            query_vectors=vectors,
            groups=groups,
            folds=[fold_of(group) for group in groups.tolist()],
            passages=[data.passages[index] for index in named],
            passage_vectors=self.material.passages[named],
            labels=[
                (at, named.index(data.train.own[row]), 1.0, FEEDBACK) for at, row in enumerate(rows)
            ],
        )

    def measured(
        self,
        condition: Condition,
        champion: Champion | None,
        candidate: Candidate,
        made: Champion | None,
        seconds: float,
    ) -> Trial:
        ranks = [
            ranks_of(self.served(version), self.material.passages, self.own)
            for version in (champion, made or champion)
        ]
        before, after = (figures(each) for each in ranks)
        gate = candidate.metrics
        return Trial(
            condition=condition.name,
            seed=self.seed,
            published=candidate.accepted,
            named_only=made is not None and made.card.threshold is None,
            reason=candidate.reason,
            groups=int(gate.get("groups") or 0),
            gate_before=_number(gate.get("before")),
            gate_after=_number(gate.get("after")),
            low=_number(gate.get("low")),
            tried=int(candidate.chosen.get("settings_tried") or 0),
            before=before,
            after=after if made is not None else None,
            gain=paired_gain(*(reciprocal(each) for each in ranks), resamples=2000),
            seconds=seconds,
        )

    def served(self, version: Champion | None) -> Floats:
        """(n, dim) the held-out queries as they are served: only what is routed is turned."""
        base = np.asarray(self.material.held_out)
        if version is None or version.card.head is None:
            return base
        routed = routes(version.card, base)
        served: Floats = np.where(routed[:, None], bend(base, [version.card.head]), base)
        return served


def _beginning(data: TrainingSet, queries: int) -> TrainingSet:
    """The first so many queries with their labels; all passages stay candidates."""
    kept = data.label_query < queries
    return TrainingSet(
        queries=data.queries[:queries],
        query_vectors=data.query_vectors[:queries],
        groups=data.groups[:queries],
        folds=data.folds[:queries],
        weights=data.weights[:queries],
        passages=data.passages,
        passage_vectors=data.passage_vectors,
        label_query=data.label_query[kept],
        label_passage=data.label_passage[kept],
        label_value=data.label_value[kept],
        label_source=tuple(s for s, k in zip(data.label_source, kept, strict=True) if k),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
