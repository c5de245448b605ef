"""One evaluation: ask the fleet, rank, measure, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bus import RequestTimeout
from services.command.evaluation.findings import DEPTH, Findings
from services.command.evaluation.folder import LONGEST, Collection
from services.command.evaluation.ranking import Ranked, best, places
from services.command.evaluation.report import Report
from services.command.evaluation.vectors import embedded, summed
from services.command.models import model_of
from services.runtime.client import Encoded, FleetClient

__all__ = ["Evaluation", "Progress", "evaluate", "models_of"]

Progress = Callable[[str, int, int, int], None]
"""Hears what is done, how much of it, of how much, and how much of that was there already."""


class Evaluation(NamedTuple):
    """The report, and the rankings it was made from."""

    report: Report
    ranked: Mapping[str, Ranked]
    """By model."""


def models_of(asked: Sequence[str]) -> tuple[str, ...]:
    """Base, which all others are held against, then what was asked for, each once.

    Raises `InputRefused` for what can be no model.
    """
    models = tuple(dict.fromkeys(("base", *(asked or ("auto",)))))
    for model in models:
        model_of(model)
    return models


async def evaluate(
    client: FleetClient,
    collection: Collection,
    models: Sequence[str],
    cache: Path,
    *,
    k: int = 10,
    weights: str | None = None,
    progress: Progress = lambda what, done, total, found: None,
) -> Evaluation:
    """Ask the fleet for every query along each of `models`, and compare with the first, base.

    A model is `base`, `auto` or a skill by any name that the fleet knows, several joined by `+`.
    The documents' vectors are base vectors whatever is asked, as in a database that was filled
    once; they are kept in `cache`, by the SHA-256 of the fleet's `weights` where it is known.

    Raises what the fleet answers (`EncodeFailedError` for an unknown skill, before any document is
    embedded), `OtherVectors` and `FolderRefused`.
    """
    begun = time.monotonic()
    asked = {model: await _asked(client, collection, model, progress) for model in models}
    total = len(collection.ids)
    corpus = await embedded(
        client,
        collection,
        cache,
        weights,
        progress=lambda done, found: progress("documents embedded", done, total, found),
    )
    own = [query.own for query in collection.queries]
    ranked = best(
        np.concatenate([answer.vectors for answer in asked.values()]),
        _told(corpus.blocks(), total, progress),
        places(collection.ids),
        max(k, DEPTH),
        without=own * len(asked),
    )
    count = len(own)
    parts = {model: ranked.part(n * count, count) for n, model in enumerate(asked)}
    found = {model: Findings(collection.queries, it, k) for model, it in parts.items()}
    base = found[models[0]]
    report = Report(
        folder=str(collection.folder),
        split=collection.split,
        documents=total,
        queries=count,
        unanswerable=collection.unanswerable,
        model=asked[models[0]].model,
        k=k,
        runs=tuple(it.run(model, asked[model].rows, base) for model, it in found.items()),
        embedded=corpus.fresh,
        seconds=time.monotonic() - begun,
        notes=tuple([*_shortened(collection), *await _bending(client, list(asked.values()))]),
    )
    return Evaluation(report, parts)


async def _asked(
    client: FleetClient, collection: Collection, model: str, progress: Progress
) -> Encoded:
    texts = [query.text for query in collection.queries]
    more = summed(lambda done: progress(f"queries, {model}", done, len(texts), 0))
    route, skills = model_of(model)
    return await client.encode(texts, route=route, skills=skills, progress=more)


def _told(
    blocks: Iterator[npt.NDArray[np.float32]], total: int, progress: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        progress("documents ranked", done, total, 0)


def _shortened(collection: Collection) -> Iterator[str]:
    if collection.shortened:
        yield f"{collection.shortened:,} texts were cut at {LONGEST:,} bytes."


async def _bending(client: FleetClient, answers: Sequence[Encoded]) -> list[str]:
    """A card that bends documents, too, is not at its best over base vectors: that is said."""
    used = {skill.digest for answer in answers for row in answer.rows for skill in row.skills}
    if not used:
        return []
    try:
        listed = await client.skills(timeout=5.0)
    except RequestTimeout:
        return ["Whether a skill bends documents, too, is unknown: the fleet did not list them."]
    both = sorted({it.name for it in listed if it.digest in used and "document" in it.applies_to})
    return [
        f"{name} is made for documents, too, but theirs are base vectors here." for name in both
    ]
