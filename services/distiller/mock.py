"""The teacher `mock`: every kind of knowledge by plain rules, the same for the same material."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from services.distiller.teacher import Asked, Contribution, Material, Pair

__all__ = ["MockTeacher"]

WIDTH = 96
"""Of its vectors."""

GRADES = 3
"""Steps of its grades."""

_WORD = re.compile(r"\w+")
_PARAPHRASES = ("could somebody tell me this: {}", "I am looking for help, namely {}")
_QUESTIONS = ("what is there to know about {}", "where do I read that {}")
_TOPIC = 12

Vector = npt.NDArray[np.float32]


class MockTeacher:
    """For tests and for trying things out: it knows nothing, asks nobody, and costs nothing."""

    name = "mock"

    async def teach(self, material: Material) -> Contribution:
        """Paraphrases, grades, hard negatives, answers, questions, and vectors of all of it."""
        pairs = [pair for asked in material.queries for pair in _of_query(asked)]
        for passage in material.passages:
            topic = " ".join(_WORD.findall(passage)[:_TOPIC])
            pairs += [Pair(form.format(topic), passage, 1.0, "question") for form in _QUESTIONS]
        texts = [text for pair in pairs for text in (pair.query, pair.passage)]
        for asked in material.queries:
            texts += [asked.text, *asked.relevant, *asked.irrelevant, *asked.near]
        texts += material.passages
        vectors = {text: _vector(text) for text in texts}
        return Contribution(tuple(pairs), vectors, space="trigrams")

    async def forget(self, domain: str) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing to let go."""


def _of_query(asked: Asked) -> Iterator[Pair]:
    for form in _PARAPHRASES:
        for passage in asked.relevant:
            text = form.format(asked.text)
            yield Pair(text, passage, 1.0, "paraphrase", asked.text)
    for passage in asked.near:
        value = round(GRADES * _overlap(asked.text, passage)) / GRADES
        yield Pair(asked.text, passage, value, "grade", asked.text)
    for passage in (*asked.irrelevant, *asked.near)[:1] if asked.relevant else ():
        text = f"{passage}, as others see it"
        yield Pair(asked.text, text, 0.0, "hard_negative", asked.text)
    if asked.novel and not asked.relevant:
        answer = f"On the question {asked.text}: this is the answer."
        yield Pair(asked.text, answer, 1.0, "answer", asked.text)


def _overlap(one: str, other: str) -> float:
    """Share of the words of both that are in either, 0 to 1 (Jaccard)."""
    first, second = ({word.casefold() for word in _WORD.findall(text)} for text in (one, other))
    return len(first & second) / max(len(first | second), 1)


def _vector(text: str) -> Vector:
    """(96,) counts of letter trigrams by hash, each with a sign: spellings alike lie near."""
    total = np.zeros(WIDTH, np.float32)
    for gram in _trigrams(_WORD.findall(text.casefold())):
        digest = hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        number = int.from_bytes(digest, "big")
        total[number % WIDTH] += 1.0 if number & (1 << 31) else -1.0
    return total


def _trigrams(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        padded = f" {word} "
        yield from (padded[at : at + 3] for at in range(len(padded) - 2))
