"""What the docstrings under the fields of Structs say, laid into their JSON schemas."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import msgspec

__all__ = ["describe", "docstrings", "structs"]


def describe(components: dict[str, Any], kinds: Iterable[Any]) -> None:
    """Add to the schemas of these types, and of all within, what their fields mean.

    What an annotation says itself is kept.
    """
    for kind in structs(kinds):
        properties = components[kind.__name__]["properties"]
        texts = docstrings(kind)
        for field in msgspec.structs.fields(kind):
            if text := texts.get(field.name):
                properties[field.encode_name].setdefault("description", text)


@cache
def docstrings(kind: type[Any]) -> dict[str, str]:
    """The text below each field of a class and of those it inherits from, on one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is object or base.__module__.startswith("msgspec"):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except OSError:  # a program without its sources has a document without these
            continue
        for field, text in itertools.pairwise(getattr(tree, "body", [])):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str() as said)
                ):
                    found[name] = " ".join(said.split())
    return found


def structs(kinds: Iterable[Any]) -> list[type[msgspec.Struct]]:
    """Every Struct among these types and inside them, by name."""
    found: dict[str, type[msgspec.Struct]] = {}

    def look(kind: msgspec.inspect.Type) -> None:
        if isinstance(kind, msgspec.inspect.StructType):
            if found.get(kind.cls.__name__) is kind.cls:
                return
            found[kind.cls.__name__] = kind.cls
        for below in _below(kind):
            look(below)

    for kind in kinds:
        look(msgspec.inspect.type_info(kind))
    return [found[name] for name in sorted(found)]


def _below(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    for name in ("type", "item_type", "key_type", "value_type", "types", "fields", "item_types"):
        part = getattr(kind, name, ())
        for one in part if isinstance(part, tuple) else (part,):
            if isinstance(one, msgspec.inspect.Field):
                yield one.type
            elif isinstance(one, msgspec.inspect.Type):
                yield one
