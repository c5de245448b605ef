"""The gate: a card is published only if it beats what is served now, on folds it never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn

__all__ = ["Arena", "Verdict", "bootstrap", "chance", "judge", "masks", "mrr", "recall", "unit"]

CUTOFF = 10
"""Ranks beyond this count as not found: MRR@10."""

LIKELY_RELEVANT = 0.05
"""An unlabelled passage whose base similarity lies this near (share of it) to that of a labelled
positive is left out: it is likely an unlabelled relevant one."""

MIN_GROUPS = 8
"""Fewer query groups are never enough: so few can all be better by chance."""

RESAMPLES = 4000
CONFIDENCE = 0.975
FLIPS = 20_000

MOST_ATTEMPTS = 500
"""Attempts beyond this count as so many: rarer things than this `FLIPS` cannot tell."""

_MANY = 200
"""Differing groups from which the normal tail stands for the flips."""

_BLOCK = 512

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What the gate found; MRR@10 of both sides on the same queries, candidates and mask."""

    accepted: bool
    reason: str
    """One sentence."""
    before: float
    """MRR@10 of the champion, 0 to 1."""
    after: float
    """MRR@10 of the challenger, 0 to 1."""
    gain: float
    """`after - before`."""
    low: float
    """Lower end of the one-sided 97.5 % paired bootstrap interval of the gain."""
    high: float
    """Upper end, 97.5 % on its own side."""
    chance: float
    """How often so large a gain would come by chance alone, 0 to 1."""
    groups: int
    """Query groups judged."""
    attempts: int
    """Candidates judged since the version before was published, this one included."""
    recall_before: float
    """Recall@1 of the champion, 0 to 1."""
    recall_after: float
    """Recall@1 of the challenger, 0 to 1."""


def mrr(ranks: npt.ArrayLike, cutoff: int = CUTOFF) -> float:
    """Mean reciprocal rank; ranks (n,) count from 1, those beyond the cutoff give 0."""
    return float(_reciprocal(ranks, cutoff).mean())


def recall(ranks: npt.ArrayLike, k: int = 1) -> float:
    """Share of queries with a relevant passage among the first k."""
    return float((np.asarray(ranks) <= k).mean())


def judge(
    champion_ranks: npt.ArrayLike,
    challenger_ranks: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    attempts: int = 1,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    cutoff: int = CUTOFF,
) -> Verdict:
    """Compare two sides by a paired bootstrap over query groups (Efron and Tibshirani, ch. 13).

    `champion_ranks` and `challenger_ranks` (n,): rank, from 1, of the best relevant passage of
    each real query, among the same candidates with the same mask, by models that have not seen
    the query's fold. `groups` (n,): near-duplicates are drawn together. Accepted when the lower
    end of the one-sided interval of the mean gain in MRR is above zero, and so large a gain would
    come by chance no oftener than in `1 - confidence` of cases, divided by the attempts: who looks
    at every batch finds luck in one of them (Bonferroni). Raises `NothingToLearn` without queries,
    `ConfigError` where the lengths differ.
    """
    old, new = _reciprocal(champion_ranks, cutoff), _reciprocal(challenger_ranks, cutoff)
    ids = np.asarray(groups).ravel()
    if not len(old) == len(new) == len(ids):
        raise ConfigError(f"{len(old)}, {len(new)} ranks and {len(ids)} groups do not pair up")
    if not len(ids):
        raise NothingToLearn("there is no real feedback to judge a card on")
    low, high, count = bootstrap(new - old, ids, seed, resamples, confidence)
    before, after = float(old.mean()), float(new.mean())
    gain = after - before
    luck = chance(new - old, ids, seed)
    allowed = (1.0 - confidence) / min(max(attempts, 1), MOST_ATTEMPTS)
    accepted = low > 0.0 and luck <= allowed and count >= MIN_GROUPS
    if accepted:
        found = "beats what is served now"
    elif count < MIN_GROUPS:
        found = f"cannot be judged on fewer than {MIN_GROUPS} query groups"
    elif low > 0.0:
        found = f"may beat what is served now by luck alone ({luck:.2%}, {allowed:.2%} are allowed)"
    else:
        found = "does not beat what is served now"
    sides = f"MRR@{cutoff} {before:.3f} → {after:.3f} on {count} query groups"
    reason = f"{found}: {sides}, gain {gain:+.3f} ({low:+.3f} to {high:+.3f}), attempt {attempts}"
    return Verdict(
        accepted=accepted,
        reason=reason,
        before=before,
        after=after,
        gain=gain,
        low=low,
        high=high,
        chance=luck,
        groups=count,
        attempts=attempts,
        recall_before=recall(champion_ranks),
        recall_after=recall(challenger_ranks),
    )


def bootstrap(
    gains: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float, int]:
    """Ends of the interval of the mean gain per query, resampling whole groups; and their count."""
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    sums = np.bincount(member, weights=gains, minlength=count)
    sizes = np.bincount(member, minlength=count).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    block = max(1, (1 << 22) // count)
    for start in range(0, resamples, block):
        drawn = generator.integers(0, count, (min(block, resamples - start), count))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [1.0 - confidence, confidence])
    return float(low), float(high), count


def chance(
    gains: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    seed: int = 0,
    flips: int = FLIPS,
) -> float:
    """How often a mean gain as large comes about where both sides are equally good.

    Then each group could as well have the opposite sign (Fisher, The Design of Experiments, §21).
    Unlike the interval this is exact for few groups whose gains are mostly zero.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member, weights=gains)
    sums = sums[np.abs(sums) > 1e-12]
    total = float(sums.sum())
    if not len(sums) or total <= 0:
        return 1.0
    if len(sums) >= _MANY:
        return 0.5 * math.erfc(total / math.sqrt(2.0 * float(sums @ sums)))
    signs = np.random.default_rng(seed).integers(0, 2, (flips, len(sums)), dtype=np.int8)
    # Flipping a set of groups takes twice their sum away.
    flipped = total - 2.0 * (signs.astype(np.float64) @ sums)
    return float((1 + (flipped >= total - 1e-9).sum()) / (flips + 1))


class Arena:
    """One frozen candidate set and mask, in which champion and challenger are both ranked.

    The candidates of every query are all people's passages of the dataset, minus those unlabelled
    for it that are relevant to a near-duplicate, or lie within 5 % of a positive in the base
    space. People's labels alone decide: whatever a teacher labels or writes changes no rank.
    """

    def __init__(
        self, data: TrainingSet, rows: npt.ArrayLike | None = None, *, trusted: bool = False
    ) -> None:
        """`rows`: indexes of the queries to judge; by default all real ones of the dataset.

        `trusted`: somebody vouches for the dataset as a whole, so all of its labels and passages
        count, whoever made them.
        """
        chosen = np.flatnonzero(data.real) if rows is None else np.asarray(rows, np.int64).ravel()
        self.rows: Ints = chosen.astype(np.int64)
        """(k,) dataset indexes of the queries judged."""
        self.groups: Ints = data.groups[self.rows]
        """(k,) near-duplicate group of each."""
        self.folds = data.folds[self.rows]
        """(k,) fold of each."""
        # Gathered, not masked: products with a matrix of another shape may round another way.
        self.passages: Floats = unit(
            data.passage_vectors if trusted else data.passage_vectors[data.known]
        )
        """(m, dim) unit vectors of the candidates."""
        base = unit(data.query_vectors[self.rows])
        relevant, hidden = [], []
        for start in range(0, len(self.rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            both = masks(data, self.rows[part], base[part] @ self.passages.T, people=not trusted)
            relevant.append(np.packbits(both[0], axis=1))
            hidden.append(np.packbits(both[1], axis=1))
        none = np.zeros((0, (len(self.passages) + 7) // 8), np.uint8)
        self._relevant = np.concatenate([none, *relevant])
        self._hidden = np.concatenate([none, *hidden])

    def ranks(self, vectors: npt.ArrayLike) -> Ints:
        """Rank, from 1, of the best relevant passage per query; vectors (k, dim), any length."""
        given = unit(np.asarray(vectors, np.float32))
        expected = (len(self.rows), self.passages.shape[1])
        if given.shape != expected:
            raise ConfigError(f"vectors to rank should have shape {expected}, not {given.shape}")
        found = np.zeros(len(given), np.int64)
        for start in range(0, len(given), _BLOCK):
            some = np.arange(start, min(start + _BLOCK, len(given)))
            found[some] = self.rank_scores(given[some] @ self.passages.T, *self.masks(some))
        return found

    def masks(self, some: Ints) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Relevant passages, and those that are no candidates, (j, m) each, of the j-th queries."""
        count = len(self.passages)
        relevant = np.unpackbits(self._relevant[some], axis=1, count=count).astype(bool)
        hidden = np.unpackbits(self._hidden[some], axis=1, count=count).astype(bool)
        return relevant, hidden

    @staticmethod
    def rank_scores(
        scores: npt.NDArray[np.floating[Any]],
        relevant: npt.NDArray[np.bool_],
        hidden: npt.NDArray[np.bool_],
    ) -> Ints:
        """Ranks (j,) by scores (j, m) under the masks.

        A tie counts against the query: a model that cannot tell passages apart gains nothing.
        """
        best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
        ahead: Ints = ((scores >= best) & ~relevant & ~hidden).sum(axis=1)
        return ahead + 1


def masks(
    data: TrainingSet, rows: Ints, similarities: Floats, *, people: bool = False
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which passages are relevant to each query (k, m), and which are no candidates for it (k, m).

    `similarities` (k, m) are base cosines of the queries `rows` to all passages. `people`: by
    people's labels alone, and m counts people's passages only.
    """
    shape = (len(rows), similarities.shape[1])
    used = data.named if people else np.ones(len(data.label_source), bool)
    column = np.cumsum(data.known) - 1 if people else np.arange(len(data.passages))
    passage = column[data.label_passage[used]]
    asked, positive = data.label_query[used], data.label_value[used] >= 0.5
    place = np.full(len(data.queries), -1, np.int64)
    place[rows] = np.arange(len(rows))
    at = place[asked]
    mine = at >= 0
    labelled, relevant = np.zeros(shape, bool), np.zeros(shape, bool)
    labelled[at[mine], passage[mine]] = True
    relevant[at[mine & positive], passage[mine & positive]] = True

    hidden = np.zeros(shape, bool)
    wanted = data.groups[rows]
    names, member = np.unique(wanted, return_inverse=True)
    label_group = data.groups[asked]
    slot = np.searchsorted(names, label_group).clip(max=max(len(names) - 1, 0))
    shared = positive & (names[slot] == label_group) if len(names) else np.zeros(len(at), bool)
    of_group = np.zeros((len(names), shape[1]), bool)
    of_group[slot[shared], passage[shared]] = True
    hidden |= of_group[member]

    for query, place_of in zip(*np.nonzero(relevant), strict=True):
        score = similarities[query, place_of]
        hidden[query] |= np.abs(similarities[query] - score) <= LIKELY_RELEVANT * abs(score)
    hidden &= ~labelled
    return relevant, hidden


def unit(vectors: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows scaled to length 1, float32; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
    return scaled


def _reciprocal(ranks: npt.ArrayLike, cutoff: int) -> npt.NDArray[np.float64]:
    given = np.asarray(ranks).ravel()
    if len(given) and given.min() < 1:
        raise ConfigError("ranks count from 1")
    gains: npt.NDArray[np.float64] = np.where(given <= cutoff, 1.0 / np.maximum(given, 1), 0.0)
    return gains
