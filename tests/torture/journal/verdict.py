"""What a checker has to say: sentences, so many of a kind, and figures."""

from __future__ import annotations

from collections import Counter

__all__ = ["Verdict"]

SHOWN = 3
"""Sentences of one kind that are told in full."""


class Verdict:
    """Collects what is broken, and counts."""

    def __init__(self) -> None:
        self.figures: Counter[str] = Counter()
        self._said: dict[str, list[str]] = {}

    def say(self, kind: str, sentence: str) -> None:
        """A promise was broken."""
        self._said.setdefault(kind, []).append(sentence)

    @property
    def kinds(self) -> dict[str, int]:
        """How many sentences of each kind there are."""
        return {kind: len(said) for kind, said in self._said.items()}

    @property
    def broken(self) -> tuple[str, ...]:
        """The first sentences of each kind, and how many more there are."""
        told = []
        for kind, said in self._said.items():
            told += [f"{kind}: {sentence}" for sentence in said[:SHOWN]]
            if len(said) > SHOWN:
                told.append(f"{kind}: and {len(said) - SHOWN:,} more")
        return tuple(told)
