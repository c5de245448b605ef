"""Writes `reference/command.md` from the commands themselves: `python docs/reference_cli.py`.

A test fails where the page is not what this would write.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from services.command.app import app
from services.command.errors import CODES

__all__ = ["DOCUMENT", "leaves", "page"]

DOCUMENT = Path(__file__).with_name("reference") / "command.md"

_INTRODUCTION = """\
# The command

`consonance` is installed with the package; `python -m services.command` is the same. Each command
has `--help`, most have `--json`. `consonance --install-completion` completes words in your shell.

This page is made from the commands; renew it by `python docs/reference_cli.py`.
"""

_WORDS = {Path: "path", int: "whole number", float: "number", str: "text", bool: ""}


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, f"## Exit codes and places\n\n{_codes()}\n"]
    for words, command in leaves(app, (str(app.name[0]),)):
        parts.append(_section(words, command))
    return "\n".join(parts)


def leaves(group: App, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with its words, in the order of the help."""
    if group.default_command is not None:
        yield words, group
    for name in group:
        if not name.startswith("-"):
            yield from leaves(group[name], (*words, name))


def _codes() -> str:
    return CODES.strip() + "\n\n" + _places()


def _places() -> str:
    last = str(app.help_epilogue).split("Where the fleet is:")[1].removesuffix(CODES.strip() + "\n")
    return "Where the fleet is:" + last.rstrip()


def _section(words: tuple[str, ...], command: App) -> str:
    said = inspect.cleandoc(command.default_command.__doc__ or command.help or "")
    text = said.split("\nParameters\n-----")[0].strip()
    found = command.assemble_argument_collection(parse_docstring=True)
    arguments = [one for one in found if one.show and not one.children]
    places = [one for one in arguments if one.index is not None]
    usage = [" ".join(words)]
    usage += [_place(one) for one in places]
    if len(places) < len(arguments):
        usage.append("[OPTIONS]")
    lines = [f"## `{' '.join(words)}`", "", text, "", "```text", " ".join(usage), "```", ""]
    if arguments:
        lines += ["| argument | takes | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(one) for one in arguments]
        lines.append("")
    examples = str(command.help_epilogue or "").replace(CODES.strip(), "").strip("\n")
    if examples:
        examples = textwrap.dedent(examples.removeprefix("Examples:").strip("\n"))
        lines += ["```text", examples, "```", ""]
    return "\n".join(lines)


def _place(argument: Any) -> str:
    name = argument.names[0] if argument.names else argument.name
    return str(name) if argument.required else f"[{name}]"


def _row(argument: Any) -> str:
    names = ", ".join(f"`{name}`" for name in argument.names)
    text = " ".join(str(argument.parameter.help or "").split()).replace("|", "\\|")
    meaning, _, told = text.partition(" Default: ")
    default = "needed" if argument.required else told or _default(argument)
    return f"| {names} | {_shape(argument.hint)} | {default} | {meaning} |"


def _default(argument: Any) -> str:
    default = argument.field_info.default
    if default in (None, (), "", inspect.Parameter.empty) or argument.hint is bool:
        return ""
    many = isinstance(default, tuple | list)
    return f"`{' '.join(map(str, default)) if many else default}`"


def _shape(hint: Any) -> str:
    """The form of a value in a word; empty for a flag."""
    if hint in _WORDS:
        return _WORDS[hint]
    arguments = [one for one in get_args(hint) if one is not types.NoneType]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_shape(one) for one in arguments)
    if get_origin(hint) in (tuple, list):
        return f"{_shape(arguments[0])}, several"
    raise TypeError(f"{hint} has no word yet: add one to docs/reference_cli.py")


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
