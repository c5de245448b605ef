"""Everyday questions that no skill should answer: the background of every routing threshold.

Two in five were written one by one, the others from short patterns; they are the project's own.
They speak of cooking, travel, health, sport, school, weather, computers, gardens, law, music,
homes, animals, work, families, language, science, and a little of money; in a fixed order.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = ["background_digest", "background_questions"]


def background_questions() -> tuple[str, ...]:
    """The questions, at least 1,200 and no two alike."""
    return tuple(_text().splitlines())


def background_digest() -> str:
    """`sha256:…` of the questions, by which their vectors are cached per model."""
    return f"sha256:{hashlib.sha256(_text().encode()).hexdigest()}"


def _text() -> str:
    return files("lora.training").joinpath("background.txt").read_text(encoding="utf-8")
