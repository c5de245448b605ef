"""A forward pass with cards in the mix, beside our own base and PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.cards.material import Texts, head_card, plain_card
from benchmarks.cards.peers import BASE, Peft, installed
from benchmarks.cards.turns import OURS, PEFT, CardsError, Part, Turns, cosine
from benchmarks.kit.rounds import compare, figure
from lora.card import LoRACard
from lora.engine import ArrowEngine

__all__ = ["heads", "mixed"]

MOST: Final = {1: 1.05, 8: 1.08, 64: 1.15}
"""Times the base, with so many distinct cards in the batch."""
STACKED: Final = 3
MOST_STACKED: Final = 1.10
TIMES_PEFT: Final = 5.0
AGAINST: Final = 8
"""Distinct cards in the batch that PEFT is measured with."""
MOST_HEADS: Final = 1.02
ALIKE: Final = 0.9999

Rows = list[tuple[LoRACard, ...]]


@dataclass(frozen=True)
class Mix:
    """Which cards each text of a batch goes through."""

    what: str
    rows: Rows


def mixed(
    engine: ArrowEngine, texts: Texts, folder: Path, turns: Turns, *, count: int, repeat: int
) -> Part:
    """`count` texts at once: base, 1, 8, 64 cards among them, 3 stacked; PEFT with 8."""
    asked = texts.mixed(count)
    cards = [plain_card(engine, number) for number in range(max(MOST))]
    mixes = {
        name: Mix(f"{count} texts, {name}", rows)
        for name, rows in {
            "no card": [()] * count,
            **{_distinct(n): [(cards[i % n],) for i in range(count)] for n in MOST},
            f"{STACKED} stacked": [tuple(cards[:STACKED])] * count,
        }.items()
    }
    contestants: dict[str, Callable[[], object]] = {
        name: partial(engine.encode_rows, asked, mix.rows) for name, mix in mixes.items()
    }
    notes: list[str] = []
    if installed():
        peft = Peft(engine.model_folder, folder, cards[0])
        for card in cards[1:AGAINST]:
            peft.load(card)
        names = [cards[i % AGAINST].name for i in range(count)]
        contestants[PEFT] = partial(peft.encode, asked, names)
        contestants[f"{PEFT} base"] = partial(peft.encode, asked, [BASE] * count)
        least = cosine(
            peft.encode(asked, names), engine.encode_rows(asked, mixes[_distinct(AGAINST)].rows)
        )
        if least < ALIKE:
            raise CardsError(f"PEFT's vectors are others than ours: a cosine of {least:.6f}")
        notes.append(
            f"{AGAINST} distinct cards: the least cosine of a vector of ours to PEFT's is "
            f"{least:.7f}; PEFT has the texts in one padded batch."
        )
    else:
        notes.append("PEFT is not installed: the forward pass was not compared with it.")
    _check(engine, asked, mixes[_distinct(AGAINST)].rows)
    found = turns.take("forward", contestants, repeat=repeat)
    rates = {name: [count / value for value in values] for name, values in found.items()}
    part = Part(notes=notes)
    for name, values in rates.items():
        whose = PEFT if name.startswith(PEFT) else OURS
        what = {PEFT: _distinct(AGAINST), f"{PEFT} base": "no card"}.get(name, name)
        part.figures.append(figure(f"{count} texts, {what}", whose, "texts/s", values))
    base = ("own base", found["no card"])
    wanted = {_distinct(n): most for n, most in MOST.items()}
    for name, most in {**wanted, f"{STACKED} stacked": MOST_STACKED}.items():
        what = f"time of {count} texts, {name}"
        ours = (OURS, found[name])
        part.comparisons.append(compare(what, ours, base, relation="<=", wanted=most))
    if PEFT in found:
        eight = _distinct(AGAINST)
        what = f"texts/s of {count} texts, {eight}"
        part.comparisons += [
            compare(
                what, (OURS, rates[eight]), (PEFT, rates[PEFT]), relation=">=", wanted=TIMES_PEFT
            ),
            compare(
                f"time of {count} texts, {eight}",
                (PEFT, found[PEFT]),
                ("its own base", found[f"{PEFT} base"]),
            ),
        ]
    return part


def heads(
    engine: ArrowEngine, texts: Texts, turns: Turns, *, count: int, distinct: int = 64
) -> Part:
    """`count` texts over `distinct` heads, beside the base alone."""
    asked = texts.queries(count)
    cards = [head_card(engine, number) for number in range(distinct)]
    rows: Rows = [(cards[i % distinct],) for i in range(count)]
    _check(engine, asked[:64], rows[:64])
    found = turns.take(
        "heads",
        {
            "base": partial(engine.encode, asked),
            "heads": partial(engine.encode_rows, asked, rows),
        },
    )
    what = f"{count:,} texts, {distinct} heads"
    part = Part()
    for name, label in (("base", f"{count:,} texts, no head"), ("heads", what)):
        rate = [count / value for value in found[name]]
        part.figures.append(figure(label, OURS, "texts/s", rate))
    part.comparisons.append(
        compare(
            f"time of {what}",
            (OURS, found["heads"]),
            ("own base", found["base"]),
            relation="<=",
            wanted=MOST_HEADS,
        )
    )
    return part


def _distinct(number: int) -> str:
    return "1 card" if number == 1 else f"{number} distinct cards"


def _check(engine: ArrowEngine, texts: Sequence[str], rows: Rows) -> None:
    """Each row is bent, and by its own card: as it is where that card is alone."""
    together = engine.encode_rows(texts, rows)
    alone = np.empty_like(together)
    for card in {id(row[0]): row[0] for row in rows}.values():
        mine = [i for i, row in enumerate(rows) if row[0] is card]
        alone[mine] = engine.encode_rows([texts[i] for i in mine], [(card,)] * len(mine))
    base: npt.NDArray[np.float32] = engine.encode(texts)
    if cosine(together, alone) < ALIKE:
        raise CardsError("a row in a mixed batch is not what it is with its card alone")
    if not np.all(np.abs(together - base).max(axis=1) > 1e-4):
        raise CardsError("a row went through no card")
