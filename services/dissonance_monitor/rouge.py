"""ROUGE-L F1 by the rouge-score package, loaded when it is first needed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

__all__ = ["MAX_CHARACTERS", "rouge_l"]

MAX_CHARACTERS = 4000
"""Texts are compared up to here: the longest common subsequence takes quadratic time."""

_WORD = re.compile(r"\w+")
_OPTIONAL = ("scipy", "sklearn")


class _Words:
    """Words of any script in lower case; the package's own tokenizer knows a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


@cache
def _scorer() -> Any:
    # The package loads nltk, which loads scipy and scikit-learn where they are installed, for
    # classifiers that nobody here asks for: 100 MB and three seconds. It does without them.
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not importable
    try:
        from rouge_score.rouge_scorer import RougeScorer
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    return RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l(candidate: str, references: Iterable[str]) -> float:
    """The highest ROUGE-L F1 (Lin 2004) of `candidate` against any reference, 0 to 1.

    1 where it equals one of them; 0 where there is none.
    """
    best = 0.0
    for reference in references:
        if reference == candidate:
            return 1.0
        scores = _scorer().score(reference[:MAX_CHARACTERS], candidate[:MAX_CHARACTERS])
        best = max(best, float(scores["rougeL"].fmeasure))
    return best
