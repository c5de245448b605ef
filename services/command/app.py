"""The root of the command line: which commands there are, and what their ends mean.

Every command is imported when it is used, so that help and completion come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from cyclopts import App, CycloptsError

from services.command.errors import DONE, FAILED, INTERRUPTED, REFUSED, CommandError
from services.command.kit import NAME, group, note

__all__ = ["app", "main"]

_EXAMPLES = f"""
Examples:

    {NAME} up
        start a fleet, its state in .consonance; Ctrl-C stops it

    {NAME} status --watch
        what it is doing: processes, requests, open batches, skills, peers

    {NAME} encode questions.txt --out questions.npy
        vectors of a file's lines, bent by whatever skills fit

    {NAME} feedback given.jsonl
        tell it what people found relevant, and what not

    {NAME} skills list
    {NAME} watch --types skill.installed --json

Where the fleet is: --state names its folder (.consonance), --bus its bus;
over tcp with the keys in the state folder, or those that CONSONANCE_KEY and
CONSONANCE_SERVER_KEY name.
"""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("consonance")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


def _root() -> App:
    made = group(NAME, "Run a Consonance fleet, and work with one that runs.", _EXAMPLES)
    made.version = _version
    made.version_flags = ["--version"]
    made["--help"].group = made["--version"].group = "Options"
    made.register_install_completion_command(
        help="Install completion for your shell.", group="Options", help_flags=[], version_flags=[]
    )
    return made


app = _root()

_COMMANDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("up", "up:app", "Start the whole fleet and stay until it is stopped."),
    ("demo", "checkout:demo", "Watch a fleet get better at a real domain."),
    ("bench", "checkout:bench", "Run one of the benchmarks."),
    ("status", "status:app", "Show what the fleet is doing."),
    ("encode", "encode:app", "Embed the lines of a file or of standard input."),
    ("feedback", "feedback:app", "Tell what people found relevant to a query."),
    ("story", "story:app", "Tell what became of a batch, from its first feedback to the card."),
    ("watch", "watch:app", "Follow what is said on the bus."),
    ("skills", "skills:app", "List, show, retire, pin and forget skills."),
    ("card", "card:app", "Inspect, verify, import, export and make skill cards."),
    ("journal", "journal:app", "Read the journal, and tend its groups and dead letters."),
    ("evaluate", "evaluation.command:app", "Measure ranking on a folder in BEIR's form."),
    ("keys", "keys:app", "Make, list and revoke the keys of the HTTP API and of the bus."),
    ("key", "node:key", "Show this node's public key, fingerprint and name."),
    ("trust", "node:trust", "Whose skills this node accepts."),
    ("authority", "node:authority", "Certificates for mutual TLS between nodes."),
    ("peers", "peers:app", "Which peers there are, and what they offer."),
)

for _place, (_name, _where, _help) in enumerate(_COMMANDS):
    app.command(f"services.command.{_where}", name=_name, help=_help, sort_key=_place)


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line and exit; every refusal is one sentence on standard error."""
    given = list(sys.argv[1:] if words is None else words)
    _fill_in_streams()
    try:
        code = app(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read had enough: `| head`
        _mute_output()
        code = DONE
    except KeyboardInterrupt:
        note("interrupted")
        code = INTERRUPTED
    except MemoryError:
        note("cannot go on: out of memory")
        code = FAILED
    except Exception as error:
        code = _told(error)
        if code is None:
            raise
    sys.exit(code or DONE)


def _fill_in_streams() -> None:
    """Nothing is read from, or written to, a stream that was closed (`<&-`).

    Else the next file or socket that is opened would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))


def _told(error: Exception) -> int | None:
    """Say what went wrong in a sentence; None for a mistake of ours, which nobody may hide."""
    if isinstance(error, CycloptsError):
        note(str(error))
        return REFUSED
    if isinstance(error, CommandError):
        note(str(error))
        return error.code
    found = _foreign(error)
    if found is not None:
        note(found[1])
        return found[0]
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        note(f"cannot go on: {error.strerror or error}{where}")
        return FAILED
    return None


def _foreign(error: Exception) -> tuple[int, str] | None:
    """The exit code and the sentence of what the packages below raise on purpose."""
    from bus import BusError, InvalidKey, InvalidUrl
    from lora.errors import LoRAError
    from services import errors

    refused: tuple[type[Exception], ...] = (errors.SettingsError, errors.PreflightError, LoRAError)
    if isinstance(error, errors.GaveUpError):
        from services.fleet.output import in_words

        with suppress(OSError):
            for line in error.last_lines:
                print(f"  | {in_words(line)[1]}", file=sys.stderr)
        refused += (errors.RefusedError,)
    if isinstance(error, errors.EncodeFailedError):
        wrong = error.code in {"unknown_skill", "invalid", "too_large"}
        return (REFUSED if wrong else FAILED), str(error)
    if isinstance(error, (*refused, InvalidKey, InvalidUrl)):
        return REFUSED, str(error)
    if isinstance(error, BusError | errors.ServiceError):
        return FAILED, str(error)
    return None


def _mute_output() -> None:
    """What is still buffered goes nowhere: the interpreter shall not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere: Any = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
