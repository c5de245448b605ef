"""What a settings key means and accepts, read off its annotation, in words."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

__all__ = ["Field", "fields_of"]

_NOUNS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


@dataclass(frozen=True)
class Field:
    """One key of a section."""

    name: str
    kind: Any
    """The annotation, limits included: what msgspec converts to."""
    default: Any
    text: str
    unit: str
    """Empty where the key is a pure number or a text."""
    accepts: str
    """The type and the range, in words."""


@functools.cache
def fields_of(section: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The keys of a section, in the order in which they are declared."""
    return tuple(_field(info) for info in msgspec.structs.fields(section))


def _field(info: msgspec.structs.FieldInfo) -> Field:
    metas, kind, optional = _unwrap(info.type)
    text = next((meta.description for meta in metas if meta.description), "")
    unit = next((meta.extra["unit"] for meta in metas if meta.extra and meta.extra["unit"]), "")
    accepts = _accepts(kind, metas) + (", or not set" if optional else "")
    return Field(info.name, info.type, info.default, text, unit, accepts)


def _unwrap(kind: Any) -> tuple[list[msgspec.Meta], Any, bool]:
    """The metadata found on the way, the plain type, and whether None is allowed."""
    metas: list[msgspec.Meta] = []
    optional = False
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind, *found = get_args(kind)
            metas += [meta for meta in found if isinstance(meta, msgspec.Meta)]
        elif origin in (Union, types.UnionType):
            (kind,) = (choice for choice in get_args(kind) if choice is not type(None))
            optional = True
        else:
            return metas, kind, optional


def _accepts(kind: Any, metas: list[msgspec.Meta]) -> str:
    if get_origin(kind) is Literal:
        choices = [f'"{choice}"' for choice in get_args(kind)]
        return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
    if get_origin(kind) is tuple:
        return f"a list, each {_accepts(get_args(kind)[0], [])}"
    words = [_NOUNS[kind]]
    for meta in metas:
        if meta.ge is not None:
            words.append(f"from {_number(meta.ge)}")
        if meta.gt is not None:
            words.append(f"above {_number(meta.gt)}")
        if meta.le is not None:
            words.append(f"to {_number(meta.le)}")
        if meta.lt is not None:
            words.append(f"below {_number(meta.lt)}")
        if meta.min_length:
            words.append("that is not empty")
    if "from" in " ".join(words) and "to" not in " ".join(words):
        words.append("on")
    return " ".join(words)


def _number(value: float) -> str:
    return f"{value:,}".replace(",", "_") if isinstance(value, int) else f"{value:g}"
