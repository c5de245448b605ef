"""What the benchmarks' commands share: options, a bar, exit codes, one JSON object at the end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = [
    "Benchmark",
    "Busy",
    "Found",
    "Measure",
    "add_data",
    "add_model",
    "add_output",
    "add_seeds",
    "measured_on",
    "progress_bar",
    "seeds_of",
    "sizes_of",
    "typed",
    "until_stopped",
    "write_json",
]

T = TypeVar("T")
Found = dict[str, Any]
"""What a benchmark found, as it goes into JSON."""
Measure = Callable[[argparse.Namespace, Console], Found | Coroutine[Any, Any, Found]]
"""Measures, at once or in a loop of its own."""
Errors = tuple[type[Exception], ...]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as a command."""

    name: str
    """`learning`, as in `python -m benchmarks.learning`."""
    about: str
    """Shown by `--help`."""
    width: int = 120
    """Columns of the tables where standard output is no terminal."""
    wrong: Errors = (OSError,)
    """What a wrong folder or setting raises: exit code 2."""
    failed: Errors = ()
    """What a failed run raises: exit code 1, also where it is one of `wrong`."""

    def parser(self) -> argparse.ArgumentParser:
        """A command line without options."""
        return argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def perform(
        self,
        given: argparse.Namespace,
        measure: Measure,
        *,
        out: Path | None = None,
        missed: Callable[[Found], bool] | None = None,
    ) -> int:
        """Measure, write the JSON object into `out` and print it if `given.json`.

        Exit code: 0 done, 1 failed or `missed` what was wanted, 2 wrong, 130 interrupted.
        """
        console = Console(width=None if sys.stdout.isatty() else self.width)
        try:
            finding = measure(given, console)
            found = until_stopped(finding) if isinstance(finding, Coroutine) else finding
        except (KeyboardInterrupt, asyncio.CancelledError):
            return 130
        except (*self.failed, *self.wrong) as error:
            print(f"benchmarks.{self.name}: {_words(error)}", file=sys.stderr)
            return 1 if isinstance(error, self.failed) else 2
        if out is not None:
            write_json(found, out)
        if given.json:
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(found), flush=True)
        return int(missed is not None and missed(found))


def _words(error: Exception) -> str:
    """What the system says of a file, without its number; else the error's own words."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}"
    return str(error)


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`, without which nothing can be measured."""
    parser.add_argument("--data", type=Path, required=True, help="folder in BANKING77's form")


def add_seeds(parser: argparse.ArgumentParser, count: int, what: str) -> None:
    """`--seeds` and `--first-seed`; `seeds_of` reads them."""
    parser.add_argument("--seeds", type=int, default=count, help=f"{what} (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="%(default)s")


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`."""
    parser.add_argument("--model", help="model folder or hub id (all-MiniLM-L6-v2)")


def add_output(parser: argparse.ArgumentParser, out: str = "file for the JSON object") -> None:
    """`--json`, and `--out` with its help."""
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help=out)


def typed(name: str, argv: Sequence[str] | None) -> str:
    """What was typed, but for where the result was to go."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return shlex.join(["python", "-m", f"benchmarks.{name}", *words])


def seeds_of(given: argparse.Namespace) -> range:
    """The seeds that are run."""
    return range(given.first_seed, given.first_seed + given.seeds)


def sizes_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[int]:
    """Pieces of feedback, from a `--feedback` with commas; anything else ends the process."""
    try:
        return [int(size) for size in given.feedback.split(",")]
    except ValueError:
        parser.error(f"--feedback should be numbers with commas, not {given.feedback!r}")


def progress_bar(console: Console) -> Progress:
    """Progress that goes away, shown on a terminal alone."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def measured_on(began: float) -> Found:
    """The machine, and how long it took since `began` (of `time.monotonic`).

    `others` is the share of all cores, 0 to 1, that went to other work since this process started.
    """
    found: Found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "others": _STARTED.others(),
        "seconds": time.monotonic() - began,
    }
    if processor := _processor():
        found["processor"] = processor
    return found


class Busy:
    """How busy the whole machine was when this was made."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._busy = self._all()
        self._own = self._ours()

    def others(self) -> float:
        """Share of the cores' time since then that went to none of this process's family."""
        whole = (time.monotonic() - self._at) * (os.cpu_count() or 1)
        used = self._all() - self._busy - (self._ours() - self._own)
        return min(max(used / whole, 0.0), 1.0) if whole > 0 else 0.0

    @staticmethod
    def _all() -> float:
        times = psutil.cpu_times()._asdict()
        idle = {"idle", "iowait", "guest", "guest_nice"}  # a guest's are in the user's already
        return float(sum(value for name, value in times.items() if name not in idle))

    @staticmethod
    def _ours() -> float:
        me, total = psutil.Process(), 0.0
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # its own, and of children that ended
        return total


_STARTED: Final = Busy()


def _processor() -> str:
    """As Linux names it; empty where nobody says."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def write_json(found: Found, file: Path) -> None:
    """Indented, into a file that is made with its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, where SIGTERM cancels as Ctrl-C does: what was started is stopped in order."""

    async def stoppable() -> T:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    return asyncio.run(stoppable())
