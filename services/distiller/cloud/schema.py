"""What a model is to answer: the structs, and their JSON schema as strict servers accept it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Graded", "GradedItem", "Reply", "Written", "WrittenItem", "strict_schema"]


class WrittenItem(msgspec.Struct, frozen=True):
    """What was written for one item."""

    id: int
    texts: tuple[str, ...]


class Written(msgspec.Struct, frozen=True):
    """Texts for each item."""

    items: tuple[WrittenItem, ...]


class GradedItem(msgspec.Struct, frozen=True):
    """The grades of one item, in the order of its passages."""

    id: int
    grades: tuple[Literal[0, 1, 2, 3], ...]


class Graded(msgspec.Struct, frozen=True):
    """Grades for each item."""

    items: tuple[GradedItem, ...]


Reply = Written | Graded


def strict_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a struct in the subset that strict structured output takes.

    References are written out, an object allows and requires exactly its own keys, and an
    enumeration says its type. Formats that recur within themselves have no such schema.
    """
    found = msgspec.json.schema(kind)
    schema: dict[str, Any] = _plain(found, found.get("$defs", {}))
    return schema


def _plain(node: Any, defined: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(child, defined) for child in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(defined[node["$ref"].rpartition("/")[2]], defined)
    plain = {
        key: _plain(value, defined)
        for key, value in node.items()
        if key not in ("$defs", "properties", "title", "description", "default")
    }
    if plain.get("type") == "object":
        own = node.get("properties", {})
        plain["properties"] = {name: _plain(value, defined) for name, value in own.items()}
        plain["required"] = list(own)
        plain["additionalProperties"] = False
    if "enum" in plain:
        plain["type"] = "integer" if isinstance(plain["enum"][0], int) else "string"
    return plain
