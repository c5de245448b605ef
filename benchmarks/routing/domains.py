"""The three domains, each as feedback, held-out queries and passages; and what belongs to none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.learning.data import Queries, read
from benchmarks.routing import science
from demo import domain
from demo.domain import Pair

__all__ = ["Domain", "domains", "unrelated"]


@dataclass(frozen=True)
class Domain:
    """A task to learn; the queries of both halves differ."""

    name: str
    passages: tuple[str, ...]
    feedback: Queries
    held_out: Queries


def domains(folder: Path, feedback: int, held_out: int, seed: int) -> tuple[Domain, ...]:
    """BANKING77 in `folder` (feedback of its training half, queries of its test half), the standard
    library, and the libraries of numerical work.

    Raises `benchmarks.learning.data.DataError`, `RuntimeError`.
    """
    bank = read(folder)
    banking = Domain(
        "banking",
        bank.passages,
        bank.train.sample(feedback, seed),
        bank.test.sample(min(held_out, len(bank.test)), seed),
    )
    return (
        banking,
        _signatures("python", domain.pairs(), feedback, held_out, seed),
        _signatures("science", science.pairs(), feedback, held_out, seed),
    )


def unrelated() -> tuple[str, ...]:
    """Questions and search phrases of no domain here, written one by one; nothing learns them."""
    text = Path(__file__).with_name("unrelated.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _signatures(
    name: str, pairs: tuple[Pair, ...], feedback: int, held_out: int, seed: int
) -> Domain:
    halves = domain.split(pairs)
    passages = tuple(pair.passage for pair in pairs)
    place = {passage: index for index, passage in enumerate(passages)}

    def queries(half: tuple[Pair, ...], count: int) -> Queries:
        texts = tuple(pair.query for pair in half)
        every = Queries(texts, tuple(place[pair.passage] for pair in half))
        return every.sample(min(count, len(every)), seed)

    return Domain(
        name, passages, queries(halves.feedback, feedback), queries(halves.held_out, held_out)
    )
