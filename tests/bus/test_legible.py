"""Events must be legible to those who read them, not only to the broker."""

from __future__ import annotations

import json

import pytest

from bus.broker.legible import LEVELS, check_legible
from bus.errors import Refused


def nested(levels: int) -> bytes:
    opening = "".join('{"a":' if level % 2 else "[" for level in range(levels))
    closing = "".join("}" if level % 2 else "]" for level in reversed(range(levels)))
    return f"{opening}1{closing}".encode()


@pytest.mark.parametrize(
    "around", ['{"x":%s}', '[[[],{}],"[[[{",%s,"\\"]"]'], ids=["alone", "among"]
)
def test_an_event_may_be_nested_so_deep_and_no_deeper(around: str) -> None:
    fits, too_deep = (
        (around % nested(levels).decode()).encode() for levels in (LEVELS - 1, LEVELS)
    )
    json.loads(too_deep)
    check_legible(fits)
    with pytest.raises(Refused, match=f"deeper than {LEVELS}"):
        check_legible(too_deep)


def test_brackets_beside_each_other_or_in_texts_are_not_depth() -> None:
    check_legible(json.dumps([[{"a": []}]] * 5000).encode())
    check_legible(json.dumps({"text": '[{"' * 5000 + "\\"}).encode())


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(Refused, match="not UTF-8 at byte 2"):
        check_legible(b'["\xff"]')
