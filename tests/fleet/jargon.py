"""A small domain whose words no model knows: every passage has a code name that people use."""

from __future__ import annotations

import random

CODES = {
    "flumox": "Refunds to the original payment method",
    "bravik": "Resetting a forgotten password",
    "trundel": "Delivery times and parcel tracking",
    "ospray": "Opening hours of our shops",
    "kelmar": "Cancelling a subscription",
    "dratch": "Changing the billing address",
    "vintor": "Warranty and repairs",
    "quillip": "Student discounts and vouchers",
}
PATTERNS = (
    "my {} is still open",
    "who handles {} here",
    "the {} went wrong again",
    "how long does a {} take",
    "please help me with {}",
    "is there a {} for two people",
    "what is the status of the {}",
    "I was told to ask for {}",
    "another {} question",
    "do I have to pay for {}",
    "{} does not work on my phone",
    "tell me about {}",
    "I want to complain about a {}",
    "can {} be done today",
    "{} from last week",
    "urgent: {}",
    "my colleague needs {}",
    "{} for a new customer",
    "where do I find {}",
    "my {} was rejected",
)
PASSAGES = tuple(CODES.values())


def pairs(seed: int = 0) -> list[tuple[str, str]]:
    """(query, its passage), 160 of them, shuffled."""
    made = [(form.format(code), passage) for code, passage in CODES.items() for form in PATTERNS]
    random.Random(seed).shuffle(made)
    return made
