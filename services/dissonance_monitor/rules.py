"""What dissonance is: scores of one answer, and the rule that makes it a clash. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas import LearningEvent
from services.runtime.settings import MonitorSettings

__all__ = [
    "LIKELY_RELEVANT",
    "Scores",
    "entropy",
    "entropy_delta",
    "is_breakthrough",
    "likely_relevant",
    "margin",
    "ranked_first",
    "reason",
]

LIKELY_RELEVANT = 0.05
"""An unlabelled passage whose base similarity is this near (share of it) to that of a relevant
one is likely relevant too, and left out."""

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """How well one query was answered, as it was served."""

    rouge_score: float
    """ROUGE-L F1 of the passage ranked first against any relevant one, 0 to 1."""
    entropy_delta: float
    """Normalised entropy as served minus that of the base model, -1 to 1."""
    margin: float | None
    """Best relevant minus best irrelevant cosine; None without one of the two."""
    right: bool
    """No passage stood before the best relevant one; true where there was nothing to rank."""
    novelty: float | None
    """Best cosine to any prototype of any skill; None where there are no skills."""


def entropy(similarities: npt.ArrayLike, tau: float) -> float:
    """Shannon entropy of `softmax(s / tau)` divided by log(count), 0 to 1; 0 below two passages."""
    scaled = np.asarray(similarities, np.float64) / tau
    if scaled.size < 2:
        return 0.0
    weights = np.exp(scaled - scaled.max())
    p = weights / weights.sum()
    bits = -(p * np.log(np.where(p > 0, p, 1.0))).sum() / np.log(p.size)
    return float(min(max(bits, 0.0), 1.0))


def entropy_delta(served: npt.ArrayLike, base: npt.ArrayLike, tau: float) -> float:
    """H(served) − H(base) over the same passages, -1 to 1: negative is surer than before."""
    return entropy(served, tau) - entropy(base, tau)


def margin(relevant: npt.ArrayLike, irrelevant: npt.ArrayLike) -> float | None:
    """Best relevant minus best irrelevant similarity; None where either side is empty."""
    ours, theirs = np.asarray(relevant, np.float64), np.asarray(irrelevant, np.float64)
    if not ours.size or not theirs.size:
        return None
    return float(ours.max() - theirs.max())


def ranked_first(similarities: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[int, bool]:
    """Index of the passage ranked first, and whether it is a relevant one.

    A tie counts against the answer: who cannot tell passages apart was not right.
    Raises `ValueError` without passages.
    """
    scores, good = np.asarray(similarities, np.float64), np.asarray(relevant, np.bool_)
    if not scores.size:
        raise ValueError("there is no passage to rank")
    best = np.flatnonzero(scores == scores.max())
    wrong = best[~good[best]]
    return (int(wrong[0]), False) if wrong.size else (int(best[0]), True)


def likely_relevant(candidates: npt.ArrayLike, positives: npt.ArrayLike) -> Mask:
    """Which unlabelled candidates (n,) are so near to a positive that they are left out.

    Both are base similarities to the query. Everything from 5 % below the worst positive to
    5 % above the best is doubtful, as in the gate.
    """
    scores, good = np.asarray(candidates, np.float64), np.asarray(positives, np.float64)
    if not good.size:
        return np.zeros(scores.shape, np.bool_)
    reach = LIKELY_RELEVANT * np.abs(good)
    found: Mask = (scores >= (good - reach).min()) & (scores <= (good + reach).max())
    return found


def reason(scores: Scores, settings: MonitorSettings) -> str | None:
    """Why this is a clash: `contradiction`, `breakthrough`, `entropy` or `novel`; None: it is none.

    Where several hold the first of them is said: only a contradiction counts as a failure.
    """
    if not scores.right or (scores.margin is not None and scores.margin < 0):
        return "contradiction"
    if is_breakthrough(scores.rouge_score, scores.entropy_delta, settings):
        return "breakthrough"
    if abs(scores.entropy_delta) > settings.entropy:
        return "entropy"
    if scores.novelty is not None and scores.novelty < settings.novelty:
        return "novel"
    return None


def is_breakthrough(rouge_score: float, delta: float, settings: MonitorSettings) -> bool:
    """Right and markedly surer than the base model, by the configured limits."""
    return LearningEvent.check_breakthrough(
        rouge_score,
        delta,
        rouge_above=settings.breakthrough_rouge,
        entropy_below=settings.breakthrough_entropy,
    )
