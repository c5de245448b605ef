"""What the demonstration found, as data: the report and the verdict are made from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.kit.measure import Figures, Gain, figures, paired_gain, reciprocal

__all__ = ["Clock", "Example", "Mark", "Measured", "Results"]


@dataclass(frozen=True)
class Measured:
    """The held-out queries, ranked one way."""

    label: str
    """`base`, `head`, `body` or `auto`."""
    skill: str | None
    """`python-stdlib@2` where one was named."""
    ranks: npt.NDArray[np.int64]
    """(n,) rank of each query's own signature among all."""
    routed: float
    """Share of the queries that a skill made, 0 to 1."""

    @property
    def figures(self) -> Figures:
        """Recall@1 and MRR@10."""
        return figures(self.ranks)


@dataclass(frozen=True)
class Mark:
    """Something that happened while the fleet learned."""

    at: float
    """Seconds after the first piece of feedback."""
    kind: str
    """`judged`, `clash`, `batch`, `task`, `head`, `body`, `refused`."""
    text: str = ""


@dataclass(frozen=True)
class Example:
    """One held-out query whose answer changed."""

    query: str
    passage: str
    before: int
    after: int


@dataclass
class Clock:
    """Seconds that people ask about."""

    ready: float = 0.0
    passages: float = 0.0
    """Embedding all passages."""
    answering: dict[str, float] = field(default_factory=dict)
    """Version → from the last clash of its batch to the first answer that it made."""
    total: float = 0.0


@dataclass
class Results:
    """Everything that the report shows."""

    python: str
    pairs: int
    feedback: int
    measured: list[Measured] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    judged: int = 0
    clashes: int = 0
    batches: int = 0
    asked: int = 0
    """Requests of the trickle that were answered while the fleet learned."""
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def base(self) -> Measured:
        """Before anything was learned."""
        return self.measured[0]

    @property
    def final(self) -> Measured | None:
        """The newest version, named in the request; None where nothing was published."""
        named = [it for it in self.measured if it.skill is not None]
        return named[-1] if named else None

    def gains(self, after: Measured) -> tuple[Gain, Gain]:
        """Of recall@1 and of MRR@10 over the base, per query, with 95 % intervals."""
        before = self.base.ranks
        return (
            paired_gain(before == 1, after.ranks == 1),
            paired_gain(reciprocal(before), reciprocal(after.ranks)),
        )

    def failure(self) -> str | None:
        """Why the demonstration failed, in one sentence; None where it did not."""
        if self.final is None:
            why = f" ({self.refusals[-1]})" if self.refusals else ""
            return f"nothing was published: no card beat the base model at the gate{why}"
        gain = self.gains(self.final)[1]
        if gain.low <= 0:
            return (
                f"{self.final.skill} gained {gain.mean:+.3f} MRR@10 on held-out queries, but the "
                f"95 % interval from {gain.low:+.3f} to {gain.high:+.3f} includes zero"
            )
        if self.failed:
            return f"{self.failed} requests failed while the fleet learned"
        return None

    def to_json(self) -> str:
        """The figures, without the single ranks."""
        rows: list[dict[str, Any]] = []
        for it in self.measured:
            recall, mrr = self.gains(it)
            rows.append(
                {
                    "label": it.label,
                    "skill": it.skill,
                    "routed": it.routed,
                    **it.figures._asdict(),
                    "recall_gain": recall._asdict(),
                    "mrr_gain": mrr._asdict(),
                }
            )
        plain = {
            key: value
            for key, value in vars(self).items()
            if isinstance(value, str | int | float | list) and key not in ("measured", "marks")
        }
        plain["examples"] = [asdict(it) for it in self.examples]
        return json.dumps(
            {**plain, "clock": asdict(self.clock), "measured": rows, "failure": self.failure()},
            indent=2,
        )
