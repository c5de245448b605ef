"""One card that was trained, stored in each dtype: bytes, time to load, speed, what its vectors
keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.cards.material import Texts, trained_card
from benchmarks.cards.turns import OURS, CardsError, Part, Turns, cosine
from benchmarks.kit.rounds import compare, figure
from lora.adapter import DTYPES
from lora.engine import ArrowEngine
from lora.store import CardStore

__all__ = ["stored"]

LEAST: Final = 0.999
"""Cosine of a vector to the one by the card in float32, below which a dtype is of no use."""
LEARNED: Final = 0.999
"""Cosine to the base above which the card did nothing."""


def stored(
    engine: ArrowEngine, texts: Texts, folder: Path, turns: Turns, *, count: int, steps: int
) -> Part:
    """Train for `steps`, store in every dtype, measure on `count` texts it did not learn from."""
    half = len(texts.pairs) // 2
    trained = trained_card(engine, texts.pairs[:half], steps=steps)
    asked = texts.queries(count)
    base = engine.encode(asked)
    wide = engine.encode_rows(asked, [(trained,)] * count)
    moved = float(np.mean([cosine(wide[i : i + 1], base[i : i + 1]) for i in range(count)]))
    if moved > LEARNED:
        raise CardsError(f"the card learned nothing: a cosine of {moved:.5f} to the base")
    part = Part(
        notes=[
            f"stored dtypes: a card of rank 8 on query and value that learned in {steps} steps; the"
            f" mean cosine of its vectors to the base's is {moved:.4f}."
        ]
    )
    store = CardStore(folder)
    loads: dict[str, Callable[[], float]] = {}
    passes: dict[str, Callable[[], object]] = {}
    for dtype in DTYPES:
        card = store.put(trained.astype(dtype))
        found = engine.encode_rows(asked, [(card,)] * count)
        least = cosine(found, wide)
        if least < LEAST:
            raise CardsError(f"in {dtype} the card is another one: a cosine of {least:.5f}")
        engine.evict(card)  # what is put in below is the manager's alone
        size = float(store.path(card.key).stat().st_size)
        part.figures += [
            figure(f"stored as {dtype}: file", OURS, "kB", [size / 1000]),
            figure(f"stored as {dtype}: least cosine to float32", OURS, "", [least]),
            figure(f"stored as {dtype}: 1 - that cosine", OURS, "", [max(0.0, 1 - least)]),
        ]
        loads[dtype] = partial(_load, engine, store, card.key, turns)
        passes[dtype] = partial(engine.encode_rows, asked, [(card,)] * count)
    for work in loads.values():
        work()
    milliseconds = turns.measure("stored dtypes: load", loads)
    seconds = turns.take("stored dtypes: forward", passes)
    for dtype in DTYPES:
        rate = [count / value for value in seconds[dtype]]
        part.figures += [
            figure(f"stored as {dtype}: load + apply", OURS, "ms", milliseconds[dtype]),
            figure(f"stored as {dtype}: {count} texts", OURS, "texts/s", rate),
        ]
        if dtype != "float32":
            wanted = ("float32", seconds["float32"])
            what = f"time of {count} texts, stored as {dtype}"
            part.comparisons.append(compare(what, (OURS, seconds[dtype]), wanted))
    return part


def _load(engine: ArrowEngine, store: CardStore, digest: str, turns: Turns) -> float:
    """Milliseconds from the file to the layers; it is taken out again."""
    with engine.exclusive():
        began = turns.clock()
        card = store.open(digest)
        engine.manager.apply_card(card)
        took = 1000 * (turns.clock() - began)
        engine.manager.remove_card(digest)
    return took
