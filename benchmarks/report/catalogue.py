"""The benchmarks that the page is about, in its order, and how each is run for it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

__all__ = ["CATALOGUE", "Entry", "command_of"]


@dataclass(frozen=True)
class Entry:
    """One benchmark."""

    name: str
    title: str
    about: str
    """Markdown, what is measured against what; one paragraph."""
    options: tuple[str, ...] = ()
    """What it is given beside `--out`."""
    minutes: int = 40
    """After so many it is ended, and counts as not measured."""


CATALOGUE = (
    Entry(
        "encode",
        "Encoding through the whole fleet",
        "A fleet with its default settings gets single texts, which it has never seen, from 64 "
        "concurrent clients over the bus. In the same rounds sentence-transformers (its defaults) "
        "and ONNX Runtime (exported once, sorted by length, the best of four batch sizes), each in "
        "a process of its own, get the same texts as one list. `engine` is our own engine in one "
        "process, without a bus. Then 200 texts go one after another. The texts are signatures, "
        "sentences and paragraphs of the standard library, of 7 to 66 tokens. Every vector is "
        "compared with sentence-transformers'.",
        ("--bulk", "--engine"),
    ),
    Entry(
        "cards",
        "Skill cards",
        "What cards cost in the forward pass, alone, mixed and stacked; to load, apply and remove; "
        "with thousands registered; in each stored form. The peer is PEFT.",
    ),
    Entry(
        "routing",
        "Finding the skill",
        "One query, and 256, against an index of 10,000 skills, beside NumPy's bare matrix product "
        "of the same size.",
    ),
    Entry(
        "bus",
        "The bus",
        "Live events beside a bare pyzmq proxy; durable ones, flushed to the disk before they are "
        "acknowledged, beside NATS JetStream that does the same.",
    ),
    Entry(
        "memory",
        "Memory",
        "What each process of a fleet has resident and for itself; what a card adds, in use and "
        "merely registered.",
    ),
    Entry(
        "installation",
        "From the last clash to the card that answers",
        "A whole fleet is given feedback that clashes; timed is what lies between the last clash "
        "and the first answer by the card that was learned from it, the training taken out.",
    ),
    Entry(
        "learning",
        "Learning",
        "Seconds until a skill answers, beside sentence-transformers' trainer with a PEFT LoRA on "
        "the same feedback until it is as good.",
        ("--against", "sentence-transformers", "--seeds", "1"),
        minutes=90,
    ),
    Entry(
        "federation",
        "A card from a peer",
        "A card of 50 MB comes from another process, verified and opened, beside a bare Flight "
        "`do_get` of the same bytes.",
    ),
)


def command_of(entry: Entry) -> str:
    """What a person types to measure the same."""
    return shlex.join(["python", "-m", f"benchmarks.{entry.name}", *entry.options])
