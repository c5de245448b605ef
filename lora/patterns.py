"""PEFT's patterns of module names, matched in time that grows with the name alone.

They are regular expressions, and come from whoever made the folder: Python's own engine would try
`(a+)+b` for as long as the universe lasts. What people write is read: plain names, `.`, `[0-9]`,
`\\d`, `*`, `+` and `?` behind one of these, alternatives in a group, `^` and `$`.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from functools import lru_cache
from typing import Final

from lora.errors import InteropError

__all__ = ["Pattern"]

LONGEST: Final = 512
"""Characters of a pattern."""

VARIANTS: Final = 256
"""Combinations of a pattern's alternatives."""

_PLAIN: Final = re.compile(r"[\w.-]+")
_ATOM: Final = re.compile(r"(\\[.dw_-]|\[[\w.-]+\]|[\w.-])([*+?]?)")
_GROUP: Final = re.compile(r"\((?:\?:)?([^()]*)\)(?![*+?{])")


class Pattern:
    """What ends a module's name, from its beginning or behind a dot on.

    Raises:
        InteropError: it is no regular expression, or more of one than is read here.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise InteropError(f"a pattern has more than {LONGEST} characters")
        try:
            with warnings.catch_warnings(action="ignore"):  # of the future
                re.compile(text)
        except (re.error, RecursionError, OverflowError) as e:
            raise InteropError(f"the pattern {text!r} is no regular expression: {e}") from e
        self.plain = _PLAIN.fullmatch(text) is not None
        """Whether it is a name; a dot in it is taken for a dot."""
        self._text = text
        self._variants = [] if self.plain else [_Variant(one, text) for one in _variants(text)]

    def ends(self, name: str) -> bool:
        """Whether it matches the whole name, or all of it behind one of its dots."""
        if self.plain:
            return name == self._text or name.endswith(f".{self._text}")
        return any(variant.ends(name) for variant in self._variants)


def _variants(text: str) -> list[str]:
    """Every text without groups that a text with groups stands for."""
    parts = _GROUP.split(text if "(" in text else f"({text})")
    choices = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
    if math.prod(map(len, choices)) > VARIANTS:
        raise InteropError(f"the pattern {text!r} has more than {VARIANTS} variants")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


class _Variant:
    """A row of characters, some of them repeated; all ways through it are followed at once."""

    def __init__(self, text: str, whole: str) -> None:
        self._anchored = text.startswith("^")
        text = text.removeprefix("^").removesuffix("$")
        self._atoms: list[tuple[str, str]] = []
        place = 0
        while place < len(text):
            found = _ATOM.match(text, place)
            if found is None:
                raise InteropError(
                    f"the pattern {whole!r} is more of a regular expression than is read here"
                )
            atom, times = found.groups()
            self._atoms += [(atom, ""), (atom, "*")] if times == "+" else [(atom, times)]
            place = found.end()

    def ends(self, name: str) -> bool:
        start = self._onward({0})
        states = start
        for letter in name:
            states = self._onward(
                {
                    at if self._atoms[at][1] == "*" else at + 1
                    for at in states
                    if at < len(self._atoms) and _takes(self._atoms[at][0], letter)
                }
            )
            if letter == "." and not self._anchored:
                states |= start
        return len(self._atoms) in states

    def _onward(self, states: set[int]) -> set[int]:
        """With what may be left out behind them."""
        found = set(states)
        for at in states:
            while at < len(self._atoms) and self._atoms[at][1] in ("*", "?"):
                at += 1
                found.add(at)
        return found


@lru_cache(maxsize=256)
def _letters(atom: str) -> re.Pattern[str]:
    return re.compile(atom)


def _takes(atom: str, letter: str) -> bool:
    return atom == letter if len(atom) == 1 and atom != "." else bool(_letters(atom).match(letter))
