"""Writes `reference/http-api.md` from the API's operations: `python docs/reference_api.py`.

A test fails where the page is not what this would write. For programs the API itself serves
`/openapi.json`, made from the same objects.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from catalogue import shape  # noqa: E402

from services.api.app import OPERATIONS  # noqa: E402
from services.api.errors import ApiError  # noqa: E402
from services.api.openapi import Error, document  # noqa: E402
from services.api.operation import Operation  # noqa: E402

__all__ = ["DOCUMENT", "page"]

DOCUMENT = Path(__file__).with_name("reference") / "http-api.md"

_INTRODUCTION = """\
# HTTP API

What `services/api` answers, by default at `http://127.0.0.1:8321`. The running fleet shows the
same at `/docs`, and for programs at `/openapi.json` (OpenAPI 3.1). How to connect:
[clients](../how-to/clients.md).

This page is made from the operations; renew it by `python docs/reference_api.py`.
"""


def page() -> str:
    """The whole page."""
    whole = document(OPERATIONS)
    parts = [_INTRODUCTION, whole["info"]["description"].strip(), ""]
    for tag in whole["tags"]:
        mine = [one for one in OPERATIONS if one.tag == tag["name"]]
        if mine:
            parts += [f"## {tag['name'].capitalize()}", "", tag["description"], ""]
            parts += [_operation(one, whole) for one in mine]
    parts += ["## Errors", "", _errors(), "## Types", ""]
    parts += [_type(kind) for kind in _structs()]
    return "\n".join(parts).rstrip() + "\n"


def _operation(one: Operation, whole: dict[str, Any]) -> str:
    said = whole["paths"][one.template][one.method.lower()]
    scope = "Needs no key." if one.scope is None else f"Scope `{one.scope}`."
    lines = [
        f"### `{one.method} {one.template}`",
        "",
        f"**{one.summary.rstrip('.')}{'' if one.summary.endswith('?') else '.'}** {scope}",
        "",
    ]
    if one.description:
        lines += [one.description, ""]
    if said.get("parameters"):
        lines += ["| parameter | in | meaning |", "| --- | --- | --- |"]
        lines += [
            f"| `{it['name']}` | {it['in']} | {_cell(it.get('description', ''))} |"
            for it in said["parameters"]
        ]
        lines.append("")
    if one.takes is not None:
        lines += [f"Takes {_linked(one.takes)}.", ""]
    gives = _linked(one.gives) if one.gives is not None else f"`{one.media}`"
    refused = ", ".join(status for status in said["responses"] if int(status) >= 400)
    lines += [f"Answers {one.status}, {gives}; may refuse with {refused}.", ""]
    return "\n".join(lines)


def _errors() -> str:
    lines = [
        "The body is an [`Error`](#error), in OpenAI's shape; `message` is a sentence for people.",
        "",
        "| status | `type` | `code` | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for kind in sorted(ApiError.__subclasses__(), key=lambda kind: kind.status):
        code = f"`{kind.code}`" if kind.code else ""
        text = _cell((inspect.getdoc(kind) or "").partition("\n\n")[0])
        lines.append(f"| {kind.status} | `{kind.kind}` | {code} | {text} |")
    return "\n".join([*lines, ""])


def _type(kind: type[msgspec.Struct]) -> str:
    text = (inspect.getdoc(kind) or "").strip()
    lines = [f"### `{kind.__name__}`", "", text, "", "| field | type | default | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        default = "needed" if field.required else _default(field.default)
        meaning = _cell(_described(field.type) or _docstrings(kind).get(field.name, ""))
        form = f"`{_cell(shape(field.type))}`"
        lines.append(f"| `{field.encode_name}` | {form} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    return (
        "" if value in (None, (), msgspec.NODEFAULT) else f"`{msgspec.json.encode(value).decode()}`"
    )


def _described(kind: Any) -> str:
    """What the type itself says, where it was annotated so."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", ""))
    return ""


@cache
def _docstrings(kind: type[Any]) -> dict[str, str]:
    """The texts below the fields of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("msgspec"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = getattr(tree, "body", [])
        for field, text in itertools.pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str() as said)
                ):
                    found[name] = said
    return found


def _structs() -> list[type[msgspec.Struct]]:
    """Every Struct of a body or inside one, by name."""
    found: dict[str, type[msgspec.Struct]] = {}

    def look(kind: Any) -> None:
        own = getattr(kind, "cls", None)
        if own is not None and found.setdefault(own.__name__, own) is not own:
            raise TypeError(f"there are two types called {own.__name__}")
        for below in _below(kind):
            if not (isinstance(below, msgspec.inspect.StructType) and below.cls in found.values()):
                look(below)

    for kind in (Error, *(it for one in OPERATIONS for it in (one.takes, one.gives) if it)):
        look(msgspec.inspect.type_info(kind))
    return [found[name] for name in sorted(found)]


def _below(kind: Any) -> Iterator[Any]:
    for name in ("type", "item_type", "key_type", "value_type", "types", "fields", "item_types"):
        part = getattr(kind, name, None)
        for one in part if isinstance(part, tuple) else (part,):
            if isinstance(one, msgspec.inspect.Field):
                yield one.type
            elif isinstance(one, msgspec.inspect.Type):
                yield one


def _linked(kind: Any) -> str:
    name = getattr(kind, "__name__", "")
    return f"[`{name}`](#{name.lower()})" if name else f"`{shape(msgspec.inspect.type_info(kind))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
