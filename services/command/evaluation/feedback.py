"""Feedback made of judgements: what people would say who saw the first ten that base finds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from services.command.evaluation.folder import Collection, texts_of
from services.command.evaluation.ranking import Ranked

__all__ = ["DOMAIN", "SHOWN", "domain_of", "pieces", "write_feedback"]

DOMAIN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

SHOWN: Final = 10
"""Documents that a person sees."""

MOST: Final = 20
"""Relevant documents of one piece; where more were judged relevant, the most relevant ones."""


def domain_of(folder: Path) -> str:
    """A folder's name as the name of a domain, and so of the skill that comes of it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("._-")
    return name[:64] or "evaluated"


def pieces(collection: Collection, ranked: Ranked, domain: str) -> Iterator[dict[str, Any]]:
    """One piece for each query, as a line of JSON says it.

    Relevant are the documents judged so; irrelevant the others among the first ten of `ranked`,
    which are base's: that nobody judged them counts as an answer here.
    """
    chosen: list[tuple[list[int], list[int]]] = []
    for query, numbers in zip(collection.queries, ranked.documents, strict=True):
        relevant = [it for it in sorted(query.relevance.items(), key=_best_first) if it[1] > 0]
        right = [number for number, _ in relevant[:MOST]]
        shown = [int(number) for number in numbers[:SHOWN] if number >= 0]
        chosen.append((right, [it for it in shown if query.relevance.get(it, 0) <= 0]))
    texts = _texts(collection, {it for both in chosen for part in both for it in part})
    for query, (right, wrong) in zip(collection.queries, chosen, strict=True):
        relevant_texts = [texts[number] for number in right]
        yield {
            "query": query.text,
            "relevant": relevant_texts,
            # Another document of the same words is as right.
            "irrelevant": [texts[it] for it in wrong if texts[it] not in relevant_texts],
            "domain": domain,
            "served": [],  # by no skill: it is the base model that is judged
        }


def write_feedback(path: Path, collection: Collection, ranked: Ranked, domain: str) -> int:
    """Write all pieces, one a line, beside and renamed; how many they are."""
    beside = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with beside.open("wb") as file:
            for piece in pieces(collection, ranked, domain):
                file.write(msgspec.json.encode(piece) + b"\n")
                count += 1
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return count


def _best_first(judgement: tuple[int, int]) -> tuple[int, int]:
    number, relevance = judgement
    return -relevance, number


def _texts(collection: Collection, numbers: set[int]) -> dict[int, str]:
    """The texts of some documents; each block that has one is read once."""
    by_start = defaultdict(list)
    starts = {block.start: block for block in collection.blocks}
    size = collection.blocks[0].count  # of all blocks but the last
    for number in numbers:
        by_start[number // size * size].append(number)
    found: dict[int, str] = {}
    for start, wanted in sorted(by_start.items()):
        texts = texts_of(collection, starts[start])
        found.update((number, texts[number - start]) for number in wanted)
    return found
