"""Everyday questions that no skill should answer: the background of every routing threshold.

Two in five were written one by one, the others from short patterns; they are the project's own.
They speak of cooking, travel, health, sport, school, weather, computers, gardens, law, music,
homes, animals, work, families, language, science, and a little of money; in a fixed order. Every
second one is put as it is typed into a search box, so that no skill is told from the background by
the form of a question.
"""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

__all__ = ["background_digest", "background_questions"]

_ASKING = re.compile(
    r"^(how (do|can|should|could|would|does|did) (i|you|we|they|people|a|an|the) "
    r"|(what|who|where|when)('s| is| are| was| were| did| do| does)( the| a| an)? "
    r"|(is|are|can|could|do|does|should|will) (i|you|it|there|a|an|the|my) "
    r"|why (do|does|is|are|did|was|were)( my| the| a| an)? "
    r"|how (long|many|much|far|often) (does|do|is|are|will|did) )",
    re.IGNORECASE,
)
_SHORTEST = 9  # characters; what is left of a shorter one says nothing


def background_questions() -> tuple[str, ...]:
    """The questions, at least 1,200 and no two alike, every second one as a search phrase."""
    asked = _text().splitlines()
    phrases = [_phrase(question) if at % 2 else question for at, question in enumerate(asked)]
    return tuple(dict.fromkeys(phrases))


def background_digest() -> str:
    """`sha256:…` of the questions, by which their vectors are cached per model."""
    text = "\n".join(background_questions())
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _phrase(question: str) -> str:
    """`How do I tune a ukulele?` as `tune a ukulele`."""
    short = _ASKING.sub("", question).rstrip("?").lower()
    return short if len(short) >= _SHORTEST else question


def _text() -> str:
    return files("lora.training").joinpath("background.txt").read_text(encoding="utf-8")
