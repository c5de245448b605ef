"""Texts that are on every machine: what the standard library says of itself, each used once."""

from __future__ import annotations

import ast
import contextlib
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["TOKENS", "NotEnoughTexts", "Texts", "model_tokens", "standard_library"]

TOKENS = (7, 66)
"""Special tokens counted: from a short question to a paragraph."""

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}
CHARACTERS = 600  # longer than this is beyond the tokens, and only takes time to be counted

Count = Callable[[Sequence[str]], Sequence[int]]


class NotEnoughTexts(Exception):
    """More was asked for than there is without saying anything twice."""


class Texts:
    """Different texts in a fixed random order; the fleet remembers, so none is given out twice."""

    def __init__(self, pool: Sequence[str], seed: int) -> None:
        self._left = sorted(set(pool))
        random.Random(seed).shuffle(self._left)

    def __len__(self) -> int:
        return len(self._left)

    def draw(self, count: int) -> list[str]:
        """The next `count`; raises `NotEnoughTexts`."""
        if count > len(self._left):
            raise NotEnoughTexts(
                f"the standard library has no {count:,} more texts, only {len(self._left):,}: "
                "fewer --rounds or --texts"
            )
        drawn = self._left[-count:][::-1]
        del self._left[-count:]
        return drawn


def standard_library(count: Count, root: Path | None = None) -> list[str]:
    """Every signature, paragraph and sentence of the modules in `root` (the library of the Python
    that runs) which has from 7 to 66 tokens, as `count` counts them; sources are read, not run.
    """
    folder = root or Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, None] = {}
    for file in sorted(folder.rglob("*.py")):
        if SKIPPED.isdisjoint(file.relative_to(folder).parts):
            with contextlib.suppress(SyntaxError, ValueError):  # examples of what is wrong
                tree = ast.parse(file.read_text("utf-8"))
                found.update(dict.fromkeys(_said(tree)))
    texts = [text for text in found if len(text) <= CHARACTERS]
    least, most = TOKENS
    return [
        text for text, tokens in zip(texts, count(texts), strict=True) if least <= tokens <= most
    ]


def model_tokens(folder: Path) -> Count:
    """How many tokens the model in `folder` reads of each text."""
    from transformers import AutoTokenizer  # takes seconds to import

    tokenizer = AutoTokenizer.from_pretrained(folder)

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        rows = tokenizer(list(texts), truncation=True, max_length=TOKENS[1] + 1)["input_ids"]
        return [len(row) for row in rows]

    return count


def _said(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{node.name}({ast.unparse(node.args)})"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                line = " ".join(paragraph.split())
                yield line
                yield from re.split(r"(?<=[.?!])\s+", line)
