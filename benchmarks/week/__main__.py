"""`python -m benchmarks.week --data FOLDER`: a week in fast motion.

One fleet lives through days of minutes: categories enter and the mix of questions shifts, people
judge what they are shown, a body is trained each night by cron, processes are killed, and on one
day half of the feedback is wrong. Each evening held-out questions are ranked, by the base model
and as the fleet routes them; at the end the history of the skill is printed and drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.kit.fleet import FleetFailed
from benchmarks.learning.data import DataError, read
from benchmarks.week.calendar import cron_of, plan_week
from benchmarks.week.picture import draw
from benchmarks.week.run import one_week, settings_of
from benchmarks.week.table import as_json, show

BAD_DAY = 5


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.week",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder in BANKING77's form")
    parser.add_argument("--days", type=int, default=7, help="%(default)s")
    parser.add_argument("--day-seconds", type=int, default=120, help="%(default)s")
    parser.add_argument("--feedback", type=int, default=150, help="pieces a day (%(default)s)")
    parser.add_argument(
        "--bad-day", type=int, default=BAD_DAY, help="half wrong on this day; 0: none (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    parser.add_argument("--model", help="model folder or hub id (all-MiniLM-L6-v2)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help="folder for week.svg, week.json and the log")
    given = parser.parse_args(argv)
    if given.days < 1 or given.feedback < 1:
        parser.error("--days and --feedback should be at least 1")
    try:
        cron_of(given.day_seconds)
    except ValueError as error:
        parser.error(f"--day-seconds: {error}")
    return given


async def measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Live through the week, show and draw it."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    data = read(given.data)
    bad = given.bad_day or None
    days = plan_week(data, given.days, given.feedback, bad_day=bad, seed=given.seed)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - begun:6.0f} s  {text}", markup=False, highlight=False)

    week = await one_week(data, days, given.day_seconds, say, model=given.model, logs=given.out)
    show(console, week)
    about = {
        "data": given.data.name,
        "days": given.days,
        "day_seconds": given.day_seconds,
        "feedback_a_day": given.feedback,
        "seed": given.seed,
        "settings": settings_of(given.day_seconds),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "seconds": time.monotonic() - begun,
    }
    found = as_json(week, about)
    if given.out is not None:
        (given.out / "week.svg").write_text(draw(week), encoding="utf-8")
        (given.out / "week.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        console.print(f"drawn: {given.out / 'week.svg'}", markup=False, highlight=False)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where fleet or requests failed, 2 for a wrong folder, 130 stopped."""
    given = options_of(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        found = asyncio.run(measure(given, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except (DataError, OSError) as error:
        print(f"benchmarks.week: {error}", file=sys.stderr)
        return 2
    except FleetFailed as error:
        print(f"benchmarks.week: {error}", file=sys.stderr)
        return 1
    if given.json:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(found), flush=True)
    return int(found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
