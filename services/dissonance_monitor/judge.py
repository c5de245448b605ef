"""From one piece of feedback with its vectors to what is said of it; nothing here waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas import (
    Event,
    FeedbackGiven,
    FeedbackJudged,
    GenerationObserved,
    LearningEvent,
    encode,
)
from services.dissonance_monitor import rules
from services.dissonance_monitor.embedding import Served
from services.dissonance_monitor.errors import UnusableFeedbackError
from services.dissonance_monitor.memory import Neighbours, key_of
from services.dissonance_monitor.rouge import rouge_l
from services.dissonance_monitor.store import Judgement, cause_of
from services.runtime.settings import MonitorSettings

__all__ = ["MAX_EVENT_BYTES", "Piece", "judge", "scores_of", "settled"]

MAX_EVENT_BYTES = 1_000_000
"""What is said of a piece stays below the bus's 1 MiB, with room for the journal's numbers."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """Feedback, or a generation that somebody watched, in one form."""

    event: Event[Any]
    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]
    domain: str | None
    served: tuple[str, ...] | None
    """Digests of the cards that served it; empty: the base model; None: unknown."""
    output: str | None = None
    """What was generated in place of the reference, where that is something else."""

    @classmethod
    def of(cls, event: Event[Any]) -> Piece:
        """The piece that an event brings; a passage that is both is relevant, a blank one none.

        Of a blank query nothing is relevant: it is an empty search field, not a question.
        """
        data = event.data
        if isinstance(data, FeedbackGiven):
            given = (data.relevant, data.irrelevant) if data.query.strip() else ((), ())
            relevant, irrelevant = (dict.fromkeys(filter(str.strip, texts)) for texts in given)
            wrong = tuple(text for text in irrelevant if text not in relevant)
            return cls(event, data.query, tuple(relevant), wrong, data.domain, data.served)
        if isinstance(data, GenerationObserved):
            if not (data.prompt.strip() and data.reference.strip()):
                return cls(event, data.prompt, (), (), data.domain, ())
            other = data.output.strip() and data.output.strip() != data.reference.strip()
            output = data.output if other else None
            return cls(event, data.prompt, (data.reference,), (), data.domain, (), output)
        raise UnusableFeedbackError(f"{event.type} is neither feedback nor a generation")

    @property
    def passages(self) -> tuple[str, ...]:
        """Relevant, then irrelevant."""
        return self.relevant + self.irrelevant

    @property
    def texts(self) -> tuple[str, ...]:
        """Its passages, and what was generated: everything that is compared with the query."""
        return self.passages if self.output is None else (*self.passages, self.output)


def scores_of(
    piece: Piece,
    served: Served,
    passages: Mapping[str, Vector],
    sample: Mapping[str, Vector],
    neighbours: Neighbours,
    novelty: float | None,
    settings: MonitorSettings,
) -> rules.Scores:
    """Judge one piece among its own passages and a sample of those remembered of its domain.

    `passages` holds base vectors of the piece's own passages, others too; of the `sample` those
    that may be relevant without being labelled so are left out.
    """
    data = piece.event.data
    if isinstance(data, GenerationObserved):
        rouge = rouge_l(data.output, (data.reference,))
        delta = data.entropy_after - data.entropy_before
        return rules.Scores(rouge, delta, None, True, novelty)
    if not piece.passages:
        return rules.Scores(0.0, 0.0, None, True, novelty)
    texts, vectors = _candidates(piece, served, passages, sample, neighbours)
    base, bent = _cosines(vectors, served.base), _cosines(vectors, served.vector)
    good, given = len(piece.relevant), len(piece.passages)
    relevant = np.arange(len(texts)) < good
    delta = rules.entropy_delta(bent, base, settings.tau) if served.skills else 0.0
    margin = rules.margin(bent[:good], bent[good:given])
    if not good:
        return rules.Scores(0.0, delta, margin, True, novelty)
    first, right = rules.ranked_first(bent, relevant)
    rouge = 1.0 if right else rouge_l(texts[first], piece.relevant)
    return rules.Scores(rouge, delta, margin, right, novelty)


def settled(
    piece: Piece,
    served: Served,
    passages: Mapping[str, Vector],
    scores: rules.Scores,
    settings: MonitorSettings,
) -> Piece:
    """The piece, with what was generated as irrelevant where that was wrong.

    Wrong is what no breakthrough could be (ROUGE-L at most `breakthrough_rouge`), unless it lies
    as near to the prompt as the reference does: that is likely another wording of it.
    """
    if piece.output is None or scores.rouge_score > settings.breakthrough_rouge:
        return piece
    right = _cosines(_stack([passages[text] for text in piece.relevant]), served.base)
    other = _cosines(_stack([passages[piece.output]]), served.base)
    if rules.likely_relevant(other, right).any():
        return piece
    return replace(piece, irrelevant=(piece.output,))


def _candidates(
    piece: Piece,
    served: Served,
    passages: Mapping[str, Vector],
    sample: Mapping[str, Vector],
    neighbours: Neighbours,
) -> tuple[list[str], Vector]:
    own = list(piece.passages)
    others = [text for text in sample if text not in set(own)]
    if others:
        positives = _cosines(_stack([passages[text] for text in piece.relevant]), served.base)
        doubtful = rules.likely_relevant(
            _cosines(_stack([sample[text] for text in others]), served.base), positives
        )
        near = neighbours.relevant_near(served.base)
        pairs = zip(others, doubtful, strict=True)
        others = [text for text, out in pairs if not out and key_of(text) not in near]
    vectors = [passages[text] for text in own] + [sample[text] for text in others]
    return own + others, _stack(vectors)


def _stack(vectors: list[Vector]) -> Vector:
    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)


def _cosines(vectors: Vector, query: Vector) -> Vector:
    """Cosines (n,) of passages (n, dim) to a query (dim,)."""
    if not len(vectors):
        return np.zeros(0, np.float32)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    cosines: Vector = vectors @ query / np.maximum(norms, 1e-12)
    return cosines


def judge(
    piece: Piece,
    served: Served,
    scores: rules.Scores,
    domain: str,
    source: str,
    settings: MonitorSettings,
) -> Judgement:
    """What is said of a piece: `feedback.judged`, and `dissonance.detected` where the rule holds.

    Raises `UnusableFeedbackError` where that is more than the bus carries.
    """
    event = piece.event
    applied = tuple(skill.digest for skill in served.skills)
    events: list[Event[Any]] = [
        event.derive(
            FeedbackJudged(
                feedback_id=event.id,
                query=piece.query,
                relevant=piece.relevant,
                irrelevant=piece.irrelevant,
                domain=domain,
                served=applied,
                rouge_score=scores.rouge_score,
                entropy_delta=scores.entropy_delta,
                margin=scores.margin,
            ),
            source=source,
        )
    ]
    why = rules.reason(scores, settings) if piece.query.strip() else None
    clash: Event[LearningEvent] | None = None
    if why is not None:
        clash = event.derive(
            LearningEvent(
                feedback_id=event.id,
                prompt=piece.query,
                rouge_score=scores.rouge_score,
                entropy_delta=scores.entropy_delta,
                is_breakthrough=rules.is_breakthrough(
                    scores.rouge_score, scores.entropy_delta, settings
                ),
                timestamp=event.time,
                reason=why,
                margin=scores.margin,
                positives=piece.relevant,
                negatives=piece.irrelevant,
                domain=domain,
                skill=served.skills[0].name if served.skills else None,
            ),
            source=source,
        )
        events.append(clash)
    size = max(len(encode(said)) for said in events)
    if size > MAX_EVENT_BYTES:
        raise UnusableFeedbackError(
            f"the feedback makes an event of {size} bytes, more than the {MAX_EVENT_BYTES} allowed"
        )
    return Judgement(cause_of(event), tuple(events), clash)
