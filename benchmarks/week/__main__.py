"""`python -m benchmarks.week --data FOLDER`: a week in fast motion.

One fleet lives through days of minutes: categories enter and the mix of questions shifts, people
judge what they are shown, a body is trained each night by cron, processes are killed, and on one
day half of the feedback is wrong. Each evening held-out questions are ranked, by the base model
and as the fleet routes them; at the end the history of the skill is printed and drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from benchmarks.kit.command import (
    Benchmark,
    add_data,
    add_model,
    add_output,
    measured_on,
    write_json,
)
from benchmarks.kit.fleet import FleetFailed
from benchmarks.learning.data import DataError, read
from benchmarks.week.calendar import cron_of, plan_week
from benchmarks.week.picture import draw
from benchmarks.week.run import one_week, settings_of
from benchmarks.week.table import as_json, show

WEEK = Benchmark(
    name="week", about=__doc__, width=140, wrong=(DataError, OSError), failed=(FleetFailed,)
)
BAD_DAY = 5


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = WEEK.parser()
    add_data(parser)
    parser.add_argument("--days", type=int, default=7, help="%(default)s")
    parser.add_argument("--day-seconds", type=int, default=120, help="%(default)s")
    parser.add_argument("--feedback", type=int, default=150, help="pieces a day (%(default)s)")
    parser.add_argument(
        "--bad-day", type=int, default=BAD_DAY, help="half wrong on this day; 0: none (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="%(default)s")
    add_model(parser)
    add_output(parser, "folder for week.svg, week.json and the log")
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
        **measured_on(begun),
    }
    found = as_json(week, about)
    if given.out is not None:
        (given.out / "week.svg").write_text(draw(week), encoding="utf-8")
        write_json(found, given.out / "week.json")
        console.print(f"drawn: {given.out / 'week.svg'}", markup=False, highlight=False)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 where fleet or requests failed, 2 for a wrong folder, 130 stopped."""
    return WEEK.perform(options_of(argv), measure, missed=lambda found: found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
