"""What a card says of other skills, in its metrics: whom it was told from, whom it helps to stack.

A metric `beside.NAME` stands for each skill that was there when the card's routing was fitted: its
value is the share of that skill's prototypes that the card alone would take. A metric
`stacks.DIGITS` (the first 12 of the other card's digest) is the lower end of the interval of the
gain in MRR@10 from stacking that card upon this one, on held-out feedback between the two, and at
most 0 where the gain may be luck; only where it is above 0 is there evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = [
    "AMBIGUOUS",
    "BETWEEN",
    "MOST_NEIGHBOURS",
    "beside",
    "beside_key",
    "stacking",
    "stacks_key",
]

AMBIGUOUS: Final = 0.02
"""Two skills whose scores differ by less are about equally near."""

BETWEEN: Final = 0.1
"""A query whose scores for two skills differ by at most this sits between them."""

MOST_NEIGHBOURS: Final = 32
"""Skills of which a card speaks."""

_BESIDE: Final = "beside."
_STACKS: Final = "stacks."


def beside_key(name: str) -> str:
    """The metric that says that a skill was there."""
    return f"{_BESIDE}{name}"


def stacks_key(digest: str) -> str:
    """The metric with the evidence for stacking a card, `sha256:…`."""
    return f"{_STACKS}{digest.removeprefix('sha256:')[:12]}"


def beside(metrics: Mapping[str, Any]) -> frozenset[str]:
    """Names of the skills that a card was told from."""
    return frozenset(key.removeprefix(_BESIDE) for key in metrics if key.startswith(_BESIDE))


def stacking(metrics: Mapping[str, Any]) -> frozenset[str]:
    """First 12 digits of the digests of cards that help upon this one."""
    return frozenset(
        key.removeprefix(_STACKS)
        for key, low in metrics.items()
        if key.startswith(_STACKS) and isinstance(low, int | float) and low > 0
    )
