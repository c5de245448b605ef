"""Writes the catalogue's table into `wire-protocol.md`, from the types: `python docs/catalogue.py`.

A test fails where the table is not what this would write.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from schemas import catalogue

__all__ = ["DOCUMENT", "shape", "table", "with_table"]

DOCUMENT = Path(__file__).with_name("wire-protocol.md")
BEGIN, END = "<!-- catalogue: begin -->", "<!-- catalogue: end -->"


def table() -> str:
    """A row for every event type: lane, topic, data."""
    rows = ["| type | lane | data | said when |", "| --- | --- | --- | --- |"]
    for name, kind in catalogue().items():
        topic = f"`{name}@…`" if kind.addressed else f"`{name}`"
        said = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| {topic} | {kind.lane.value} | {_data(kind)} | {said} |")
    parts = ["", "What stands inside the data:", ""]
    parts += ["| part | fields |", "| --- | --- |"]
    parts += [f"| `{part.__name__}` | {_data(part)} |" for part in _parts()]
    return "\n".join([*rows, *parts])


def with_table(text: str) -> str:
    """The document with a fresh table between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _data(kind: type[msgspec.Struct]) -> str:
    fields = []
    for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        mark = "" if field.required else "?"
        form = shape(field.type)
        form = form if field.required else form.removesuffix("|null")
        fields.append(f"`{field.encode_name}{mark}: {form}`")
    return ", ".join(fields).replace("|", "\\|") or "nothing"


def shape(kind: Any) -> str:
    """A type in a few characters: `[str]`, `{str: float}`; a Struct by its name."""
    match kind:
        case inspect.StrType():
            return "str"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "int"
        case inspect.FloatType():
            return "float"
        case inspect.NoneType():
            return "null"
        case inspect.DateTimeType():
            return "time"
        case inspect.LiteralType():
            return "|".join(f'"{value}"' for value in kind.values)
        case inspect.VarTupleType() | inspect.ListType():
            return f"[{shape(kind.item_type)}]"
        case inspect.TupleType():
            return f"[{', '.join(shape(item) for item in kind.item_types)}]"
        case inspect.DictType():
            return f"{{{shape(kind.key_type)}: {shape(kind.value_type)}}}"
        case inspect.StructType():
            return str(kind.cls.__name__)
        case inspect.UnionType():
            return "|".join(shape(item) for item in kind.types)
        case inspect.Metadata():
            return shape(kind.type)
    raise TypeError(f"{kind} has no short form yet: add one to docs/catalogue.py")


def _parts() -> list[type[msgspec.Struct]]:
    """Structs that the events' data is made of and that are no events themselves, by name."""
    events = set(catalogue().values())
    found: dict[str, type[msgspec.Struct]] = {}

    def look(kind: Any) -> None:
        if not isinstance(kind, inspect.Type | inspect.Field):
            return
        if isinstance(kind, inspect.StructType):
            if kind.cls in events or kind.cls.__name__ in found:
                return
            found[kind.cls.__name__] = kind.cls
        for name in ("type", "item_type", "key_type", "value_type", "types", "fields"):
            below = getattr(kind, name, None)
            for part in below if isinstance(below, tuple) else (below,):
                look(part)

    for kind in events:
        for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]
            look(field.type)
    return [found[name] for name in sorted(found)]


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8")), encoding="utf-8")
