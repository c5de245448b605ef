"""A learning event: one clash between an answer and what people found relevant."""

from __future__ import annotations

from typing import ClassVar

from schemas.base import Lane, Moment, Name, Payload

__all__ = ["BREAKTHROUGH_ENTROPY", "BREAKTHROUGH_ROUGE", "LearningEvent"]

BREAKTHROUGH_ROUGE = 0.7
BREAKTHROUGH_ENTROPY = -0.1


class LearningEvent(Payload, frozen=True, kw_only=True):
    """A clash worth learning from, and at once the data of `dissonance.detected`."""

    type: ClassVar[str] = "dissonance.detected"
    lane: ClassVar[Lane] = Lane.DURABLE

    prompt: str
    rouge_score: float
    """ROUGE-L F1 between what was ranked first (or generated) and what was right, 0 to 1."""
    entropy_delta: float
    """Normalised entropy of the answer as served minus the base model's, -1 to 1."""
    is_breakthrough: bool
    timestamp: Moment
    reason: str
    """`breakthrough`, `entropy`, `contradiction` or `novel`."""
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    domain: Name
    feedback_id: str | None = None
    margin: float | None = None
    """Best relevant minus best irrelevant cosine; absent without an irrelevant passage."""
    skill: str | None = None
    """The skill that served, if one did."""

    @staticmethod
    def check_breakthrough(
        rouge_score: float,
        entropy_delta: float,
        *,
        rouge_above: float = BREAKTHROUGH_ROUGE,
        entropy_below: float = BREAKTHROUGH_ENTROPY,
    ) -> bool:
        """Right and markedly surer than before: `rouge > 0.7 and entropy_delta < -0.1`."""
        return rouge_score > rouge_above and entropy_delta < entropy_below
