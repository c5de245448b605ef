"""JSON that is nearly right: a tree is changed in one place and written again.

Objects are lists of pairs, so that a key can come twice; `Word` is written as it stands, so that a
value can be what no writer of JSON would write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

__all__ = ["Pairs", "Word", "changed", "dented", "mutated", "parse", "written"]


class Pairs(list[tuple[Any, Any]]):
    """A JSON object, its keys in order, the same one twice if need be."""


class Word(NamedTuple):
    """Bytes that stand for a value."""

    raw: bytes


def _nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> Word:
    return Word(opening * depth + b"0" * (opening != b"[") + closing * depth)


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 2**70),
    *(-(2**63), -(2**63) - 1),
    *(0.5, -0.0, 1e3, 1e308, 1e-320, 10**30, 10**400),
    *(Word(b"NaN"), Word(b"Infinity"), Word(b"1e999"), Word(b"-0"), Word(b"01"), Word(b"1.")),
    *(Word(b'"\\ud800"'), Word(b'"\\udc00\\ud800"'), Word(b'"\xff"'), Word(b'"\\u0000"')),
    *(
        "",
        "a",
        "A",
        "a\n",
        "\x7f",
        "é",
        "\U0001f600",
        "\u2028",
        "x" * 300,
        "y\U000e0001" * 700,
        "../../etc/passwd",
    ),
    *("2020-01-01T00:00:00", "2020-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"),
    *("0001-01-01T00:00:00+23:59", "2020-01-01T00:00:00-23:59", "query", "document", "bank"),
    *("sha256:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "sha256:", "name@3", "peer/name"),
    *([], Pairs(), [[]], [None], Pairs([("", None)]), Word(b"")),
    *(_nested(40), _nested(70), _nested(900), _nested(980), _nested(5000)),
    *(_nested(70, b'{"a":', b"}"), _nested(970, b'{"a":', b"}")),
)
"""What values are replaced by."""


def parse(raw: bytes) -> Any:
    """The tree of JSON bytes, or None where they are none, or very deep."""
    if raw.count(b"[" * 100) or raw.count(b'{"a":' * 50):
        return None
    try:
        return json.loads(raw, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None


def written(tree: Any) -> bytes:
    """The bytes of a tree."""
    if isinstance(tree, Word):
        return tree.raw
    if isinstance(tree, Pairs):
        return b"{" + b",".join(_key(k) + b":" + written(v) for k, v in tree) + b"}"
    if isinstance(tree, list):
        return b"[" + b",".join(map(written, tree)) + b"]"
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _key(key: Any) -> bytes:
    return written(key) if isinstance(key, Word) else json.dumps(key).encode()


def changed(tree: Any, random: Random, values: Sequence[Any] = ()) -> Any:
    """The tree with one thing changed; `values` are chosen as often as the common ones."""
    places = list(_places(tree))
    if not places:
        return _value(random, values)
    inside, at = random.choice(places)
    pairs = isinstance(inside, Pairs)
    value = inside[at][1] if pairs else inside[at]
    key = inside[at][0] if pairs else None

    def put(new: Any) -> None:
        inside[at] = (key, new) if pairs else new

    match random.randrange(11):
        case 0 | 1 | 2:
            put(_value(random, values))
        case 3:
            del inside[at]
        case 4 if pairs:  # the same key again, perhaps in other letters
            other = key if random.random() < 0.5 else _escaped(key)
            inside.insert(random.randrange(len(inside) + 1), (other, _value(random, values)))
        case 5 if pairs:
            new = random.choice([_escaped(key), "", "x", "type", "data", f"{key}\n", "domain"])
            inside[at] = (new, value)
        case 6:  # what stands elsewhere
            other, place = random.choice(places)
            found = other[place][1] if isinstance(other, Pairs) else other[place]
            put(Word(written(found)))  # as bytes: nothing may come to stand within itself
        case 7 if isinstance(value, list) and value:
            put(type(value)(list(value) * random.choice([2, 5, 300])))
        case 8 if pairs:
            inside.append((random.choice(["x", "sequence", "previous"]), _value(random, values)))
        case 9 if isinstance(value, str):
            put(_respelt(value, random))
        case 10 if isinstance(value, int | float):
            put(value + random.choice([-1, 1, 2**32]))
        case _:
            put([value] if random.random() < 0.5 else _value(random, values))
    return tree


def mutated(raw: bytes, random: Random, values: Sequence[Any] = ()) -> bytes:
    """JSON bytes with one thing changed; what is no JSON has a byte changed."""
    tree = parse(raw)
    if tree is None or random.random() < 0.05:
        return dented(raw, random)
    try:
        return written(changed(tree, random, values))
    except RecursionError:
        return raw


def _value(random: Random, values: Sequence[Any]) -> Any:
    if values and random.random() < 0.5:
        return random.choice(values)
    return random.choice(VALUES)


def _places(tree: Any) -> Iterator[tuple[list[Any], int]]:
    """Every list and place in it that holds a value."""
    if isinstance(tree, list):
        for at, item in enumerate(tree[:40]):
            yield tree, at
            yield from _places(item[1] if isinstance(tree, Pairs) else item)


def _escaped(key: Any) -> Any:
    """The same key to whoever reads it."""
    if not isinstance(key, str) or not key:
        return key
    return Word(b'"\\u%04x' % (ord(key[0]) & 0xFFFF) + json.dumps(key[1:]).encode()[1:])


def _respelt(text: str, random: Random) -> Any:
    return random.choice(
        [
            text + "\n",
            text.upper(),
            text[: len(text) // 2],
            text * 3,
            f" {text}",
            _escaped(text),
            text + "\x00",
            text.replace("/", "@"),
        ]
    )


def dented(raw: bytes, random: Random) -> bytes:
    """Some bytes taken away, put in or turned over."""
    at = random.randrange(len(raw) + 1)
    match random.randrange(4):
        case 0:
            return raw[:at] + raw[at + random.choice([1, 2, 8, 64]) :]
        case 1:
            return raw[:at] + bytes([random.randrange(256)]) + raw[at:]
        case 2:
            piece = random.choice([b"\x00", b"\xff", b"{", b"]", b'"', b"\\", b"\xed\xa0\x80"])
            return raw[:at] + piece * random.choice([1, 3, 200]) + raw[at:]
        case _:
            return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]
