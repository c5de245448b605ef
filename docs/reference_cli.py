"""Writes `reference/command.md` from the commands themselves: `python docs/reference_cli.py`.

A test fails where the page is not what this would write.
"""

from __future__ import annotations

import inspect
import sys
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

_EVERYWHERE = {"--help", "-h", "--version", "--install-completion"}

_COMMON = {
    str(one.parameter.help)
    for one in app["encode"].assemble_argument_collection(parse_docstring=True)
    if one.names and one.names[0] in ("--state", "--bus")
}

_WORDS = {Path: "path", int: "whole number", float: "number", str: "text", bool: ""}


def page() -> str:
    """The whole page."""
    root = str(app.name[0])
    parts = [_INTRODUCTION, "## Exit codes and places", "", CODES, "", _places(), ""]
    for name in app:
        if name in _EVERYWHERE:
            continue
        top = app[name]
        parts += [f"## `{root} {name}`", ""]
        found = list(leaves(top, (root, name)))
        shown = {""}  # commands of one group have their examples in common
        if top.default_command is None:
            parts += [str(top.help or "").strip(), "", *_block(_examples(top))]
            shown.add(_examples(top))
        for words, command in found:
            if words != (root, name):
                parts += [f"### `{' '.join(words)}`", ""]
            parts += _told(words, command)
            if _examples(command) not in shown:
                parts += _block(_examples(command))
                shown.add(_examples(command))
    return "\n".join(parts).rstrip() + "\n"


def leaves(group: App, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with its words, in the order of the help."""
    if group.default_command is not None:
        yield words, group
    for name in group:
        if name not in _EVERYWHERE:
            yield from leaves(group[name], (*words, name))


def _places() -> str:
    """What the root's help says of where the fleet is."""
    return "Where the fleet is:" + _examples(app).partition("Where the fleet is:")[2]


def _examples(command: App) -> str:
    """What stands below a command's help, without what stands below all of them."""
    text = str(command.help_epilogue or "").replace(CODES, "").strip("\n ")
    lines = text.removeprefix("Examples:").strip("\n").splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def _block(text: str) -> list[str]:
    return ["```text", text, "```", ""]


def _told(words: tuple[str, ...], command: App) -> list[str]:
    """Everything about one command but its examples."""
    said = inspect.cleandoc(command.default_command.__doc__ or command.help or "")
    text = said.split("\nParameters\n-----")[0].strip()
    found = command.assemble_argument_collection(parse_docstring=True)
    arguments = [one for one in found if one.show and not one.children]
    common = [one for one in arguments if _is_common(one)]
    arguments = [one for one in arguments if one not in common]
    usage = [" ".join(words), *(_place(one) for one in arguments if one.index is not None)]
    if common or any(one.index is None for one in arguments):
        usage.append("[OPTIONS]")
    lines = [text, "", "```text", " ".join(usage), "```", ""]
    if arguments:
        lines += ["| argument | takes | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(one) for one in arguments]
        lines.append("")
    if common:
        lines += [f"And {', '.join(f'`{one.names[0]}`' for one in common)}, as everywhere.", ""]
    return lines


def _is_common(argument: Any) -> bool:
    """`--state` and `--bus` of the commands that work with a fleet."""
    return argument.parameter.help in _COMMON


def _place(argument: Any) -> str:
    name = argument.names[0] if argument.names else argument.name
    if argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL:
        name = f"{name}..."
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
