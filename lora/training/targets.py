"""What a query should be drawn to: one value per labelled pair, made into target distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.errors import ConfigError
from lora.training.gate import masks, unit

__all__ = ["Relevance", "Targets", "relevance", "target_distributions"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Relevance:
    """The labelled pairs of a dataset, each once."""

    query: Ints
    """(p,) query index."""
    passage: Ints
    """(p,) passage index."""
    value: npt.NDArray[np.float64]
    """(p,) 1 relevant, 0 irrelevant, between: how relevant."""

    def relevant(self) -> Relevance:
        """The pairs of value above 0."""
        kept = self.value > 0
        return Relevance(self.query[kept], self.passage[kept], self.value[kept])


@dataclass(frozen=True, eq=False)
class Targets:
    """What a softmax over some passages is to come to, for some queries."""

    shares: Floats
    """(k, m) target distributions, rows summing to 1."""
    hidden: npt.NDArray[np.bool_]
    """(k, m) passages left out of a query's softmax."""
    sureness: Floats
    """(k,) the largest value among a query's labels: 1 where it has a passage wholly relevant."""


def relevance(data: TrainingSet) -> Relevance:
    """One value per labelled pair: the mean of people's labels, else the mean of all others'.

    What a person said of a pair is never averaged with what a teacher thinks of it.
    """
    width = max(1, len(data.passages))
    keys = data.label_query.astype(np.int64) * width + data.label_passage
    personal = np.fromiter((source == FEEDBACK for source in data.label_source), bool, len(keys))
    counted = personal | ~np.isin(keys, keys[personal])
    pairs, slot = np.unique(keys[counted], return_inverse=True)
    sums = np.bincount(slot, weights=data.label_value[counted], minlength=len(pairs))
    values = sums / np.maximum(np.bincount(slot, minlength=len(pairs)), 1)
    return Relevance(pairs // width, pairs % width, values)


def target_distributions(
    data: TrainingSet, pairs: Relevance, rows: Ints, chosen: Ints, temperature: float = 1.0
) -> Targets:
    """Target distributions of the queries `rows` (k,) over the passages `chosen` (m,).

    A passage of value v gets a share proportional to v^(1 / temperature), the softmax of log v at
    that temperature: below 1 the best passages get more, at 1 shares are as the values are, and one
    passage alone gets all at any. Listwise distillation is the cross entropy with these shares (Cao
    et al., Learning to rank: from pairwise approach to listwise approach, 2007).

    Hidden is what the gate hides: an unlabelled passage that is relevant to a near-duplicate, or
    within 5 % of a positive, is no negative. Each row must have a relevant passage among `chosen`.
    """
    if not temperature > 0:
        raise ConfigError(f"the temperature of targets should be above 0, not {temperature}")
    place = np.full(len(data.queries), -1, np.int64)
    place[rows] = np.arange(len(rows))
    column = np.full(len(data.passages), -1, np.int64)
    column[chosen] = np.arange(len(chosen))
    at, to = place[pairs.query], column[pairs.passage]
    used = (at >= 0) & (to >= 0)
    values = np.zeros((len(rows), len(chosen)), np.float32)
    values[at[used], to[used]] = pairs.value[used]
    hidden = np.zeros(values.shape, bool)
    base, everyone = unit(data.query_vectors[rows]), unit(data.passage_vectors)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        _, out = masks(data, rows[part], base[part] @ everyone.T)
        hidden[part] = out[:, chosen]
    hidden &= values == 0
    sureness: Floats = values.max(axis=1, initial=0.0)
    if temperature != 1.0:
        np.power(values, np.float32(1.0 / temperature), out=values)
    totals = values.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(values, totals, out=values, where=totals > 0)
    return Targets(shares, hidden, sureness)
