"""Labels that nobody gave: mined hard negatives, and soft labels from a teacher's vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lora.training.dataset import Label, TrainingSet
from lora.training.gate import masks, unit
from services.distiller.spaces import BLOCK, Space, nearest
from services.distiller.trust import TOO_NEAR

__all__ = ["CERTAIN", "MINED", "mined", "softened"]

MINED = "mined"
"""Source of hard negatives that nobody labelled."""

CERTAIN = 0.9
"""The most that a teacher's soft label says: what a person called relevant weighs more."""

FAINT = 0.01
"""Soft labels below this say nothing."""

Labelled = Mapping[int, Mapping[int, float]]


def softened(
    queries: Sequence[str],
    place: Mapping[str, int],
    labelled: Labelled,
    space: Space,
    source: str,
    count: int,
    temperature: float,
) -> list[Label]:
    """Soft labels of each query's `count` nearest unlabelled passages in a teacher's eyes.

    With t the teacher's cosines and + the query's best positive by them, passage j is worth
    `min(0.9, exp((t_j - t_+) / temperature))`. Divided by their sum, as in training, these values
    are the teacher's softmax over the list: listwise distillation (Cao et al. 2007, ListNet). A
    query whose positives the teacher has no vectors of gets none. `place` and `labelled` are of
    passages by text, and of values by query and passage.
    """
    found: list[Label] = []
    columns = np.array([place[text] for text in space.known], np.int64)
    for row, text in enumerate(queries):
        if row % BLOCK == 0:
            space.hold(queries[row : row + BLOCK])
        said = labelled.get(row, {})
        reference = _reference(text, said, space, columns)
        if reference is None:
            continue
        scores = np.where(np.isin(columns, list(said)), -np.inf, space.cosines(text))
        for at in nearest(scores[None], count)[0].tolist():
            value = min(CERTAIN, float(np.exp((scores[at] - reference) / temperature)))
            if value >= FAINT:
                found.append((row, int(columns[at]), value, source))
    return found


def mined(
    data: TrainingSet,
    count: int,
    spaces: Iterable[Space],
    among: Collection[int],
) -> list[Label]:
    """The `count` nearest passages of each query that are no likely positives.

    Left out are labelled ones, those that the masks of training hide (relevant to a near-duplicate,
    or within 5 % of a positive in the base space), and those that a teacher, by its own vectors,
    finds more than 95 % as similar as the best positive. `among`: passages that may be mined.
    """
    if not count or not among:
        return []
    labelled: dict[int, dict[int, float]] = {}
    for row, passage, value in zip(
        data.label_query.tolist(),
        data.label_passage.tolist(),
        data.label_value.tolist(),
        strict=True,
    ):
        labelled.setdefault(row, {})[passage] = value
    place = {text: row for row, text in enumerate(data.passages)}
    seen = [(space, np.array([place[text] for text in space.known], np.int64)) for space in spaces]
    outside = np.ones(len(data.passages), bool)
    outside[list(among)] = False
    everything = unit(data.passage_vectors)
    found: list[Label] = []
    for start in range(0, len(data.queries), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(data.queries)))
        similarities = unit(data.query_vectors[rows]) @ everything.T
        for space, _ in seen:
            space.hold(data.queries[rows[0] : rows[-1] + 1])
        _, hidden = masks(data, rows, similarities)
        hidden |= outside
        for at, row in enumerate(rows.tolist()):
            said = labelled.get(row, {})
            hidden[at, list(said)] = True
            for space, columns in seen:
                reference = _reference(data.queries[row], said, space, columns)
                if reference is not None:
                    near = space.cosines(data.queries[row]) > TOO_NEAR * reference
                    hidden[at, columns[near]] = True
        similarities[hidden] = -np.inf
        best = nearest(similarities, count)
        found += [
            (row, passage, 0.0, MINED)
            for at, row in enumerate(rows.tolist())
            for passage in best[at].tolist()
            if np.isfinite(similarities[at, passage])
        ]
    return found


def _reference(
    text: str, said: Mapping[int, float], space: Space, columns: npt.NDArray[np.int64]
) -> float | None:
    """The teacher's cosine of the query to its best positive; None where it knows none."""
    if not space.knows(text):
        return None
    positive = np.isin(columns, [passage for passage, value in said.items() if value >= 0.5])
    return float(space.cosines(text)[positive].max()) if positive.any() else None
