"""Computes the rows of a batch: each distinct text once, heads on base vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lora.card import LoRACard
from lora.head import bend
from services.encoder.batcher import Row
from services.encoder.cache import Known, VectorCache

__all__ = ["Engine", "Outcome", "compute"]


class Engine(Protocol):
    """What is needed of `lora.engine.ArrowEngine`."""

    def encode_rows(
        self,
        texts: Sequence[str],
        rows: Sequence[Sequence[LoRACard]],
        *,
        tokens: Sequence[Sequence[int]] | None = None,
        role: str = "query",
    ) -> NDArray[np.float32]:
        """(n, dim) vectors, text `i` of these tokens bent by the cards `rows[i]`."""
        ...

    def tokenize(self, texts: Sequence[str], *, role: str = "query") -> Sequence[Sequence[int]]:
        """The tokens of each text."""
        ...


class Outcome(NamedTuple):
    """The vectors of a batch's rows, in its order, and what they took."""

    rows: tuple[Known, ...]
    passed: int
    """Texts that went through the model."""
    tokens: int
    """Tokens of those."""


class _Item(NamedTuple):
    """One pass of one text; `cards` is empty for the base model."""

    role: str
    text: str
    cards: tuple[str, ...]


def compute(engine: Engine, cache: VectorCache, rows: Sequence[Row]) -> Outcome:
    """The vectors of `rows`.

    A row with no card, or with heads only, needs its text's base vector: from the cache, or from a
    pass that fills it. A row with a card that has a body needs a pass of its own. Rows that need
    the same share it, and all passes of a role are one call, whatever cards they use.
    """
    items = [_item(row) for row in rows]
    known: dict[_Item, Known] = {}
    missing: dict[_Item, Row] = {}
    for row, item in zip(rows, items, strict=True):
        if item in known or item in missing:
            continue
        cached = None if item.cards else cache.get(item.role, item.text)
        if cached is not None:
            known[item] = cached
        else:
            missing[item] = row
    passed, tokens = len(missing), 0
    for role in sorted({item.role for item in missing}):
        asked = [item for item in missing if item.role == role]
        texts = [item.text for item in asked]
        ids = _tokens(engine, role, [missing[item] for item in asked])
        stacks = [missing[item].stack if item.cards else () for item in asked]
        vectors = engine.encode_rows(texts, stacks, tokens=ids, role=role)
        for item, vector, made in zip(asked, vectors, ids, strict=True):
            tokens += len(made)
            known[item] = Known(vector, len(made))
            if not item.cards:
                cache.put(role, item.text, vector, len(made))
    return Outcome(_bent(rows, items, known), passed, tokens)


def _tokens(engine: Engine, role: str, rows: Sequence[Row]) -> list[Sequence[int]]:
    """Those that came with the rows; made now for texts whose vectors were known, and are no
    more."""
    ids = [row.ids for row in rows]
    without = [place for place, found in enumerate(ids) if not found]
    if without:
        made = engine.tokenize([rows[place].text for place in without], role=role)
        for place, found in zip(without, made, strict=True):
            ids[place] = found
    return ids


def _item(row: Row) -> _Item:
    deep = any(card.body for card in row.stack)
    return _Item(row.role, row.text, row.cards if deep else ())


def _bent(rows: Sequence[Row], items: list[_Item], known: dict[_Item, Known]) -> tuple[Known, ...]:
    """Heads applied where a row has nothing but heads, all rows of equal heads at once."""
    found = [known[item] for item in items]
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, (row, item) in enumerate(zip(rows, items, strict=True)):
        if row.stack and not item.cards:
            groups.setdefault(row.cards, []).append(i)
    for members in groups.values():
        heads = [card.head for card in rows[members[0]].stack if card.head is not None]
        bent = bend(np.stack([found[i].vector for i in members]), heads)
        for i, vector in zip(members, bent, strict=True):
            found[i] = Known(vector, found[i].tokens)
    return tuple(found)
