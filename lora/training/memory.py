"""How much memory a training takes, and how much of its data fits into what there is; torch-free.

The large things are the tables of queries against passages: targets and similarities (float32) and
the mask, 9 bytes a pair; the same again in small for the rows of a step (`_STEP`); the gate's
masks, a block of queries against all passages; and the dataset itself, once as it was read and once
more as unit vectors. A body adds the model and torch, and the frozen layers' output (`body_trunk`).
"""

from __future__ import annotations

from dataclasses import dataclass

from lora.training.head import MAX_PASSAGES, MAX_QUERIES

__all__ = ["Bounds", "bounds", "estimate", "step_bytes"]

HEAD_BYTES = 200 << 20
"""The process of a head without any data: Python, NumPy, Arrow."""

BODY_BYTES = 800 << 20
"""That of a body: torch and a small model, and what a step of each thread holds."""

ACTIVATIONS = 1 << 29
"""What is kept of the frozen layers at most, in bytes; beyond it all layers run at every step."""

_PAIR = 13  # bytes; a head upon a body has similarities of its own beside the others
_STEP = 36  # bytes a pair of the rows in a step: scores, logits, chances, targets, mask, pull
_BLOCK = 1024 * 20  # bytes a passage: a block of queries against all passages, with its masks
_ROWS = 2048  # a step's queries and passages that stand for themselves
_LEAST_QUERIES, _LEAST_PASSAGES = 256, 64


@dataclass(frozen=True)
class Bounds:
    """What a training may hold."""

    queries: int = MAX_QUERIES
    passages: int = MAX_PASSAGES
    """In a softmax, relevant or not."""
    activations: int = ACTIVATIONS
    """Bytes of the frozen layers' output."""


def step_bytes(queries: int, passages: int) -> int:
    """Bytes that one step of one fit takes over so many queries and passages."""
    return min(queries + passages, _ROWS) * passages * _STEP


def estimate(queries: int, passages: int, rows: int, candidates: int, dim: int) -> int:
    """Bytes that a problem takes, its dataset included, beyond the process itself.

    Args:
        queries, passages: those trained over.
        rows, candidates: queries and passages of the dataset.
    """
    tables = queries * passages * _PAIR
    step = step_bytes(queries, passages)
    vectors = 4 * dim * (3 * (rows + candidates) + queries + passages)
    return tables + step + candidates * _BLOCK + vectors


def bounds(budget: int | None, rows: int, candidates: int, dim: int, *, body: bool) -> Bounds:
    """How much of a dataset is trained over within `budget` bytes of resident memory.

    Passages are given up first, down to a quarter, then queries and passages alike; the least that
    makes sense is trained over even where the budget is too small for it.
    """
    if budget is None:
        return Bounds()
    left = budget - (BODY_BYTES if body else HEAD_BYTES)
    activations = max(0, min(ACTIVATIONS, left // 3)) if body else ACTIVATIONS
    left -= activations if body else 0
    queries, passages = min(rows, MAX_QUERIES), min(candidates, MAX_PASSAGES)
    fewest = min(rows, _LEAST_QUERIES), min(candidates, _LEAST_PASSAGES)
    quarter = max(passages // 4, fewest[1])
    while estimate(queries, passages, rows, candidates, dim) > left:
        before = queries, passages
        if passages > quarter:
            passages = max(quarter, passages * 4 // 5)
        else:
            queries = max(fewest[0], queries * 4 // 5)
            passages = max(fewest[1], passages * 9 // 10)
        if (queries, passages) == before:
            break
    return Bounds(
        queries if queries < min(rows, MAX_QUERIES) else MAX_QUERIES,
        passages if passages < min(candidates, MAX_PASSAGES) else MAX_PASSAGES,
        activations,
    )
