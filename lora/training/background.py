"""Everyday inputs that no skill should answer: the background of every routing threshold.

They are the project's own, most of them written one by one, the others from short patterns; in a
fixed order. They speak of homes, travel, parcels, telephones, health, school, law, offices,
cooking, animals, gardens, sport, music, science, language, work, families, chit-chat, and a little
of money and of programming. Half are questions; the others are put as people type them elsewhere,
so that no skill is told from the background by form: search phrases, complaints, orders, fragments,
typos.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

__all__ = ["background_digest", "background_questions"]


def background_questions() -> tuple[str, ...]:
    """The inputs, at least 3,200 and no two alike; to embed them takes 10 s on one CPU thread."""
    return tuple(_text().splitlines())


def background_digest() -> str:
    """`sha256:…` of the inputs, by which their vectors are cached per model."""
    return f"sha256:{hashlib.sha256(_text().encode()).hexdigest()}"


def _text() -> str:
    return files("lora.training").joinpath("background.txt").read_text(encoding="utf-8")
