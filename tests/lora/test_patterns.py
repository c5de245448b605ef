"""PEFT's patterns: what people write is matched as PEFT does, and nothing takes long."""

from __future__ import annotations

import re

import pytest

from lora.errors import InteropError
from lora.patterns import Pattern

NAMES = (
    "query",
    "layer.0.query",
    "layer.10.query",
    "layer.0.xquery",
    "encoder.layer.3.attention.self.value",
    "model.decoder.layers.0.k_proj",
)
PATTERNS = (
    "query",
    "0.query",
    r"layer\.\d+\.query",
    "layer.[0-9]+.query",
    "layer.1?0.query",
    "(query|value)",
    "query|value",
    "layer.(?:0|3).(query|attention.self.value)",
    ".*query",
    "^layer.0.query",
    "^query$",
    "model.decoder.layers.0.k_proj$",
    ".+",
    "[a-z]*",
    "x*query",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_matches_in_peft(pattern: str) -> None:
    wanted = [re.match(rf"(.*\.)?({pattern})$", name) is not None for name in NAMES]
    assert [Pattern(pattern).ends(name) for name in NAMES] == wanted


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("(a+)+b", "more of a regular expression"),
        (r"(.)\1", "more of a regular expression"),
        ("a{1,1000}", "more of a regular expression"),
        ("(a|a)" * 30 + "b", "variants"),
        ("a" * 600, "characters"),
    ],
    ids=["broken", "nested", "backward", "counted", "pairs", "long"],
)
def test_what_could_take_for_ever_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(InteropError, match=message):
        Pattern(pattern)


def test_many_stars_take_no_longer_than_the_name() -> None:
    assert not Pattern("a*" * 200 + "b").ends("a" * 255)
    assert Pattern("a*" * 200 + "b").ends("a" * 255 + "b")
