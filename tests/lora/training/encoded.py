"""Small datasets whose vectors come from a real engine."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from lora.training.dataset import FEEDBACK, TrainingSet
from lora.training.folds import fold_of, group_of

PASSAGES = ("apple pie", "blue whale", "castle gate", "dusty road", "engine oil", "frozen lake")
CLUES = ("quince", "ocean", "knight", "wagon", "gears", "skates")
"""A word per passage that says which is meant, and shares nothing with it."""


def louder(engine):
    """The engine, its weights ten times as large: a tiny model's vectors then tell texts apart."""
    with torch.no_grad():
        for parameter in engine.module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return engine


def encoded(engine, per_passage: int = 10, *, wrong_fold: int | None = None) -> TrainingSet:
    """Queries of a clue and a varying word; labels of `wrong_fold` are shifted by one."""
    words = ("now", "here", "again", "soon", "twice", "maybe", "today", "first", "later", "often")
    queries, labels, folds, groups = [], [], [], []
    for (number, clue), word in itertools.product(enumerate(CLUES), words[:per_passage]):
        text = f"{clue} {word}"
        fold = fold_of(group_of(text))
        right = (number + (fold == wrong_fold)) % len(PASSAGES)
        labels.append((len(queries), right, 1.0, FEEDBACK))
        queries.append(text)
        folds.append(fold)
        groups.append(group_of(text))
    return TrainingSet.build(
        queries=queries,
        query_vectors=engine.encode(queries),
        groups=np.array(groups),
        folds=np.array(folds),
        passages=PASSAGES,
        passage_vectors=engine.encode(PASSAGES, role="document"),
        labels=labels,
    )
