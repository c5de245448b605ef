"""Three domains whose words no model knows, after `tests.fleet.jargon`: what is to be learned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.fleet import jargon

__all__ = ["DOMAINS", "Piece", "pieces", "spoken"]

DOMAINS: Final[dict[str, dict[str, str]]] = {
    "shop": jargon.CODES,
    "museum": {
        "ermolt": "Guided tours for school classes",
        "chasset": "Photography and filming in the halls",
        "wendrup": "The cloakroom and its lockers",
        "pilfane": "Loans of paintings to other houses",
        "gorbit": "Annual tickets and who may bring a friend",
        "sculper": "Restoration of damaged frames",
        "tindle": "The cafe on the roof terrace",
        "morvex": "Wheelchairs, lifts and ramps",
    },
    "clinic": {
        "aldrum": "Blood samples before breakfast",
        "besk": "Visiting hours of the children's ward",
        "corvane": "How a prescription is renewed",
        "dultry": "Parking for patients and their drivers",
        "elfram": "Vaccination before a journey",
        "fenwick": "X-ray pictures on a disc to take home",
        "grupple": "An interpreter at the appointment",
        "hostel": "What to bring for a night at the ward",
    },
}


class Piece(NamedTuple):
    """One piece of feedback as a person would give it."""

    domain: str
    query: str
    relevant: str
    irrelevant: tuple[str, ...]


def spoken(domain: str) -> list[tuple[str, str]]:
    """What people of a domain ask, each with the passage that answers it."""
    return [
        (form.format(code), passage)
        for code, passage in DOMAINS[domain].items()
        for form in jargon.PATTERNS
    ]


def pieces(seed: int) -> Iterator[Piece]:
    """Every question of every domain once, in an order of the seed; then over again, reworded."""
    asked = [(domain, *pair) for domain in DOMAINS for pair in spoken(domain)]
    random.Random(f"feedback {seed}").shuffle(asked)
    turn = 0
    while True:
        for domain, query, passage in asked:
            others = tuple(it for it in DOMAINS[domain].values() if it != passage)
            words = query if not turn else f"{query}, for the {turn + 1}. time"
            yield Piece(domain, words, passage, others)
        turn += 1
