"""Near-duplicate groups of queries, and the fold that each group has for ever."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lora.training.dataset import FOLDS
from lora.training.errors import DatasetError

__all__ = ["NEAR_DUPLICATE", "assign_groups", "fold_of", "group_of", "normalise"]

NEAR_DUPLICATE = 0.95
"""Cosine of base vectors from which two queries count as one question asked twice."""

_SEPARATORS = re.compile(r"[\W_]+")
_BLOCK = 2048


def normalise(text: str) -> str:
    """Case, punctuation, width and spacing removed: what two spellings of one query share."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SEPARATORS.sub(" ", folded).strip() or folded.strip()


def group_of(text: str) -> int:
    """Id of the group that this query founds: 63 bits of SHA-256 of its normalised text."""
    digest = hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fold_of(group: int) -> int:
    """Fold of a group, 0 to 4; a function of the id alone, so it never changes."""
    return int(group) % FOLDS


def assign_groups(
    texts: Sequence[str],
    vectors: npt.ArrayLike,
    *,
    known_vectors: npt.ArrayLike | None = None,
    known_groups: npt.ArrayLike = (),
    threshold: float = NEAR_DUPLICATE,
) -> npt.NDArray[np.int64]:
    """Group ids (n,) of new queries, beside those that have a group already.

    A query joins the group of its nearest neighbour among the known and the new ones before it,
    where their cosine reaches the threshold, or of one with the same normalised text; else it
    founds its own. Known queries never move. `vectors` (n, dim) and `known_vectors` (k, dim) are
    base vectors; raises `DatasetError` where the shapes do not fit.
    """
    fresh = _unit(vectors, "vectors")
    if len(fresh) != len(texts):
        raise DatasetError(f"{len(texts)} queries came with {len(fresh)} vectors")
    old = np.zeros((0, fresh.shape[1]), np.float32)
    if known_vectors is not None:
        old = _unit(known_vectors, "known_vectors")
    old_groups = np.asarray(known_groups, np.int64).ravel()
    if len(old) != len(old_groups) or (len(old) and old.shape[1] != fresh.shape[1]):
        raise DatasetError("known vectors and known groups do not fit together")
    groups = np.zeros(len(texts), np.int64)
    by_id = set(old_groups.tolist())
    for start in range(0, len(texts), _BLOCK):
        stop = min(start + _BLOCK, len(texts))
        everyone = np.concatenate([old, fresh[:stop]])
        cosines = fresh[start:stop] @ everyone.T  # (block, k + stop)
        for row in range(start, stop):
            own = group_of(texts[row])
            if own not in by_id:
                before = cosines[row - start, : len(old) + row]
                best = int(before.argmax()) if len(before) else -1
                if best >= 0 and before[best] >= threshold:
                    own = int(old_groups[best] if best < len(old) else groups[best - len(old)])
            groups[row] = own
            by_id.add(own)
    return groups


def _unit(vectors: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    made = np.asarray(vectors, np.float32)
    if made.ndim != 2:
        raise DatasetError(f"{name} should have 2 axes, not {made.ndim}")
    norms = np.linalg.norm(made, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = made / np.maximum(norms, 1e-12)
    return unit
