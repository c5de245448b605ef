"""What people see of a fleet: prefixed lines, a table, and files that keep every line."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.fleet.keeper import Keeper
from services.fleet.plan import Part

__all__ = ["LogFile", "Output", "in_words"]

_COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_LEVELS = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}
_IN_PREFIX = {"timestamp", "level", "event", "service", "instance", "exception"}
_FLEET = Part("fleet", "", ())


class _Terminal(Console):
    """A console that outlives whoever read it: the files remain."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class LogFile:
    """A file of one process's lines; when it is full it becomes `.1`, and a new one begins."""

    def __init__(self, path: Path, limit: int = 8 << 20) -> None:
        """`limit`: bytes."""
        self._path = path
        self._limit = limit
        self._file = self._open()

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: str) -> None:
        """Append a line."""
        if self._file.tell() > self._limit:
            self._file.close()
            os.replace(self._path, self._path.with_suffix(".log.1"))
            self._file = self._open()
        self._file.write(f"{line}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Output:
    """The reporter of a fleet: standard error for people or machines, files for later."""

    def __init__(
        self, folder: Path, form: Literal["text", "json"] = "text", stream: TextIO | None = None
    ) -> None:
        """`folder` exists and gets a file for each part."""
        self._console = _Terminal(
            file=stream, stderr=stream is None, highlight=False, soft_wrap=True, emoji=False
        )
        self._folder = folder
        self._form = form
        self._files: dict[str, LogFile] = {}

    def line(self, part: Part, text: str) -> None:
        """A line that a process wrote, JSON or not."""
        self._keep(part.name, text)
        if self._form == "json":
            self._print(text if _fields(text) else _as_json(part, text, "info"))
        else:
            level, words = in_words(text)
            self._prefixed(part, level, words)

    def say(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """A sentence of the supervisor's own."""
        self._keep("fleet", text)
        if self._form == "json":
            self._print(_as_json(_FLEET, text, level))
        else:
            self._prefixed(_FLEET, level, text)

    def status(
        self, keepers: Sequence[Keeper], bus: str, state: Path, api: str | None = None
    ) -> None:
        """The table that stands at the end of a start; `api`: where the page is, if anywhere."""
        page = "" if api is None else f" Its page is at {api}/"
        if self._form == "json":
            self.say(f"The fleet is ready on {bus}.{page}")
            return
        table = Table(title=f"Consonance is ready on {bus}", caption=f"state in {state}")
        for heading in ("process", "number", "pid", "state"):
            table.add_column(heading)
        for keeper in keepers:
            pid = str(keeper.child.pid) if keeper.child else ""
            table.add_row(keeper.part.service, keeper.part.instance, pid, keeper.state)
        self._print(table)
        if page:
            self.say(page.strip())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _keep(self, name: str, text: str) -> None:
        with suppress(OSError):  # a full disk shall not stop what still works
            if name not in self._files:
                self._files[name] = LogFile(self._folder / f"{name}.log")
            self._files[name].write(text)

    def _prefixed(self, part: Part, level: str, words: str) -> None:
        colour = _COLOURS[zlib.crc32(part.service.encode()) % len(_COLOURS)]
        name = part.name if part.instance else part.service
        self._print(Text.assemble((f"{name:<20} ", colour), (words, _LEVELS.get(level, ""))))

    def _print(self, what: Text | Table | str) -> None:
        if not isinstance(what, str):
            self._console.print(what)
            return
        with suppress(OSError):  # nobody reads standard error any more
            self._console.file.write(f"{what}\n")
            self._console.file.flush()


def in_words(line: str) -> tuple[str, str]:
    """Level and text of a log line, for people; a line that is no JSON is what it is."""
    fields = _fields(line)
    if not fields:
        return "info", line
    level = str(fields.get("level", "info"))
    extra = "".join(f"  {key}={value}" for key, value in fields.items() if key not in _IN_PREFIX)
    time = str(fields.get("timestamp", ""))[11:19]
    trace = f"\n{fields['exception']}" if "exception" in fields else ""
    return level, f"{time} {level:<7} {fields['event']}{extra}{trace}".lstrip()


def _fields(line: str) -> dict[str, Any]:
    """The fields of a structured line; empty for any other."""
    if not line.startswith("{"):
        return {}
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return fields if "event" in fields else {}


def _as_json(part: Part, text: str, level: str) -> str:
    fields = {"service": part.service, "instance": part.instance, "level": level, "event": text}
    return msgspec.json.encode(fields).decode()
