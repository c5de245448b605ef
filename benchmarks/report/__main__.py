"""`python -m benchmarks.report`: the page docs/benchmarks.md, from what was measured.

Without options it rewrites page and pictures from the saved results, and docs/scale.md beside it.
With --all, or --only and names, it measures first, one benchmark after another, each in a process
of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.kit.command import Benchmark, Found, add_output
from benchmarks.kit.fleet import ROOT
from benchmarks.kit.rounds import Report
from benchmarks.report.catalogue import CATALOGUE, Entry
from benchmarks.report.page import page
from benchmarks.report.picture import draw
from benchmarks.report.results import FOLDER, Missing, Result, load, measure
from benchmarks.scale import page as scale

REPORT = Benchmark(name="report", about=__doc__, wrong=(OSError, ImportError))
NAMES = tuple(entry.name for entry in CATALOGUE)


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = REPORT.parser()
    parser.add_argument("--all", action="store_true", help="measure all of them first")
    parser.add_argument("--only", default="", help=f"measure these alone: {','.join(NAMES)}")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of their results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument(
        "--pictures", type=Path, default=ROOT / "docs" / "pictures" / "benchmarks", help="folder"
    )
    add_output(parser)
    given = parser.parse_args(argv)
    asked = [name for name in given.only.split(",") if name]
    if unknown := [name for name in asked if name not in NAMES]:
        parser.error(f"--only knows {', '.join(NAMES)}, not {', '.join(unknown)}")
    given.measured = [
        entry for entry in CATALOGUE if entry.name in asked or (given.all and not asked)
    ]
    return given


def run(given: argparse.Namespace, console: Console) -> Found:
    """Measure what is asked for, then write the page."""
    for number, entry in enumerate(given.measured, 1):
        _measured(entry, given, console, f"{number} of {len(given.measured)}")
    results = {entry.name: load(entry, given.results) for entry in CATALOGUE}
    write(results, given.page, given.pictures)
    scale.write(given.results, given.page.with_name("scale.md"), given.pictures)
    console.print(f"written: {_short(given.page)}", markup=False, highlight=False)
    return {
        "page": _short(given.page),
        "measured": [entry.name for entry in given.measured],
        "missing": {
            name: result.failed for name, result in results.items() if isinstance(result, Missing)
        },
    }


def write(results: dict[str, Result], file: Path, pictures: Path) -> None:
    """Page and pictures; a picture of what was not measured is taken away."""
    pictures.mkdir(parents=True, exist_ok=True)
    places = {}
    for entry in CATALOGUE:
        result = results[entry.name]
        drawn = draw(result, entry.title) if isinstance(result, Report) else None
        picture = pictures / f"{entry.name}.svg"
        if drawn is None:
            picture.unlink(missing_ok=True)
        else:
            picture.write_text(drawn, "utf-8")
            places[entry.name] = Path(os.path.relpath(picture, file.parent)).as_posix()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(results, places), "utf-8")


def _measured(entry: Entry, given: argparse.Namespace, console: Console, place: str) -> None:
    console.rule(f"{entry.name} ({place})", align="left")
    start = time.monotonic()
    result = measure(entry, given.results)
    took = f"{time.monotonic() - start:.0f} s"
    how = f"not measured: {result.failed}" if isinstance(result, Missing) else "measured"
    console.print(f"{entry.name}: {how} ({took})", markup=False, highlight=False)


def _short(file: Path) -> str:
    file = file.resolve()
    return str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 written, also where some were not measured; 2 wrong option or folder, 130
    interrupted.
    """
    given = options_of(argv)
    return REPORT.perform(given, run, out=given.out)


if __name__ == "__main__":
    sys.exit(main())
