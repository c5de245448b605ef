"""What the commands share: how their help looks, how they run, print and ask."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from services.command.errors import CODES, InputRefused

__all__ = [
    "FLAG",
    "MANY",
    "NAME",
    "OR_STDIN",
    "UNSAID",
    "confirmed",
    "group",
    "harmless",
    "json_line",
    "note",
    "print_json",
    "run",
    "say",
    "say_facts",
    "show",
    "source_of",
    "table",
]

NAME: Final = "consonance"

FLAG: Final = Parameter(negative="", show_default=False)
"""An option that is on or not there."""

UNSAID: Final = Parameter(show_default=False)
"""An option whose default is told in words."""

MANY: Final = Parameter(consume_multiple=True, negative="", show_default=False)
"""An option that takes several words at once."""

OR_STDIN: Final = Parameter(show_default=False, allow_leading_hyphen=True)
"""A file; `-` is standard input. See `source_of`."""

_WIDE: Final = 160  # columns where nobody's terminal sets a limit

T = TypeVar("T")


def group(name: str | None, text: str, examples: str = "") -> App:
    """A command, or several under one name; `examples` stand below its help."""
    return App(
        name=name,
        help=text,
        help_epilogue=f"{examples.rstrip()}\n\n{CODES}\n".lstrip("\n"),
        help_format="plaintext",
        version_flags=[],
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # `main` says a word and exits
    )


def source_of(file: Path | None) -> Path | None:
    """The file, None for standard input; raises `InputRefused` for what was meant as an option."""
    if file is None or str(file) == "-":
        return None
    if str(file).startswith("-"):
        raise InputRefused(f'Unknown option: "{file}".')
    return file


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, where SIGTERM interrupts as Ctrl-C does: nothing is left half-done."""

    async def stoppable() -> T:
        task = asyncio.current_task()
        if task is not None:
            with suppress(NotImplementedError, ValueError, RuntimeError):  # not the main thread
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def say(text: str) -> None:
    """A line of what was asked for, on standard output."""
    print(text, flush=True)


def note(text: str) -> None:
    """A sentence beside it, on standard error."""
    with suppress(OSError):  # nobody reads it: what was asked for goes on
        print(f"{NAME}: {harmless(' '.join(text.split()))}", file=sys.stderr, flush=True)


def json_line(data: Any) -> str:
    """Anything that msgspec encodes, on one line."""
    return msgspec.json.encode(data).decode()


def print_json(data: Any) -> None:
    """Anything that msgspec encodes, for people and programs."""
    say(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def say_facts(title: str, facts: Mapping[str, Any]) -> None:
    """A line for every fact that says something; what its title says is left out."""
    say(title)
    for key, value in facts.items():
        if key not in ("name", "version") and value not in (None, "", [], {}, ()):
            plain = isinstance(value, str | int | float) and not isinstance(value, bool)
            say(harmless(f"  {key:<14} {value if plain else json_line(value)}"))


def table(*headings: str, rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A table; a heading that begins with `>` stands over a column of numbers."""
    made = Table(title=title, title_justify="left")
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if right else "left")
    for row in rows:
        made.add_row(*("" if cell is None else harmless(str(cell)) for cell in row))
    return made


def harmless(text: str) -> str:
    """On one line, without control characters: others' words may come with a terminal's orders."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def show(*what: Any) -> None:
    """Tables and lines on standard output, as wide as the terminal."""
    wide = None if sys.stdout.isatty() else _WIDE
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False, width=wide)
    for one in what:
        console.print(one)


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether a person agrees; raises `InputRefused` where there is nobody to ask.

    Standard input may carry data: the answer comes from a terminal, or `yes` was said before.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and os.isatty(2)):
        raise InputRefused(f"{question} Nobody is here to be asked: say --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
