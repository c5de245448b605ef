"""Packs rows into batches by a budget of padded tokens; torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lora.errors import ConfigError

__all__ = ["DEFAULT_BATCH_TOKENS", "Batch", "Span", "pack"]

DEFAULT_BATCH_TOKENS: Final = 2048
"""Tokens of one batch, padding counted where there is any."""


@dataclass(frozen=True)
class Span:
    """Rows `start` to `end` (not included) of a batch go through the card of this key."""

    start: int
    end: int
    key: str


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together, those with the same cards beside each other."""

    rows: tuple[int, ...]
    """Positions in what was packed."""

    spans: tuple[Span, ...]
    keys: frozenset[str]
    """The cards that this batch needs."""

    tokens: int
    """Its tokens; with padding, where it is padded."""


def pack(
    lengths: Sequence[int],
    cards: Sequence[tuple[str, ...]],
    sizes: Mapping[str, int],
    *,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    card_bytes: int,
    padded: bool = True,
) -> Iterator[Batch]:
    """Split rows of these token counts, each with these cards, into batches.

    A batch holds at most `batch_tokens` (a longer row goes alone) and needs at most `card_bytes` of
    cards at once. Where all cards fit, rows are packed by length, which wastes
    least padding, and ordered by cards within the batch; else by cards first, so that each card is
    loaded once.

    Args:
        lengths: tokens of each row.
        cards: keys of the cards of each row, in the order they stack; none for the base model.
        sizes: bytes of each card.
        padded: whether a row costs as many tokens as the longest of its batch.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens must be positive, not {batch_tokens}")
    fits = sum(sizes[key] for key in {key for row in cards for key in row}) <= card_bytes
    order = sorted(
        range(len(lengths)),
        key=lambda i: ((), -lengths[i], i) if fits else (cards[i], -lengths[i], i),
    )
    rows: list[int] = []
    longest, tokens, keys, used = 0, 0, set[str](), 0
    for i in order:
        fresh = sum(sizes[key] for key in set(cards[i]) - keys)
        wider = max(longest, lengths[i])
        more = wider * (len(rows) + 1) if padded else tokens + lengths[i]
        if rows and (more > batch_tokens or used + fresh > card_bytes):
            yield _batch(rows, cards, tokens)
            rows, keys, used = [], set(), 0
            fresh = sum(sizes[key] for key in set(cards[i]))
            wider = more = lengths[i]
        rows.append(i)
        longest, tokens, used = wider, more, used + fresh
        keys.update(cards[i])
    if rows:
        yield _batch(rows, cards, tokens)


def _batch(rows: list[int], cards: Sequence[tuple[str, ...]], tokens: int) -> Batch:
    ordered = sorted(rows, key=lambda i: cards[i])
    spans: list[Span] = []
    keys = {key for i in ordered for key in cards[i]}
    for key in sorted(keys):
        start: int | None = None
        for position, i in enumerate([*ordered, -1]):
            inside = i >= 0 and key in cards[i]
            if inside and start is None:
                start = position
            elif not inside and start is not None:
                spans.append(Span(start, position, key))
                start = None
    return Batch(tuple(ordered), tuple(spans), frozenset(keys), tokens)
