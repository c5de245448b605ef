"""`python -m demo`: exits 0 if the fleet got measurably better, 1 if not, 130 when interrupted."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kit.command import until_stopped
from benchmarks.kit.fleet import FleetFailed
from bus import BusError
from demo.report import write_report
from demo.screen import Screen, first_of
from demo.story import Options, Story
from services.errors import ServiceError

__all__ = ["main"]

EXPECTED = (FleetFailed, BusError, ServiceError, RuntimeError, OSError)
"""What can go wrong without a mistake in the demonstration: told in one sentence."""


def options_of(argv: Sequence[str] | None = None) -> Options:
    """The command line."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--feedback", type=int, default=default.feedback, help="pieces of feedback (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=default.minutes, help="time for all of it (%(default)s)"
    )
    parser.add_argument("--state", type=Path, help="state folder (a temporary one)")
    parser.add_argument(
        "--report", type=Path, default=default.report, help="folder of the report (%(default)s)"
    )
    parser.add_argument("--model", help="model folder or hub id (all-MiniLM-L6-v2)")
    parser.add_argument("--workers", type=int, help="encoder processes (two)")
    given = parser.parse_args(argv)
    if given.feedback < 32:
        parser.error(f"--feedback should be at least 32, not {given.feedback}")
    return Options(**vars(given))


async def _tell(options: Options, screen: Screen) -> int:
    results = await Story(options, screen).tell()
    page = write_report(results, options.report)
    minutes, seconds = divmod(round(results.clock.total), 60)
    screen.say(
        f"{results.asked} requests were answered meanwhile, {results.failed} failed; median "
        f"{results.p50_ms:.0f} ms, 99 % within {results.p99_ms:.0f} ms"
    )
    screen.say(f"all of it took {minutes} min {seconds} s; the report: {page}")
    failure, final = results.failure(), results.final
    if failure is not None or final is None:
        screen.say(f"The demonstration failed: {failure}.", "bold red")
        return 1
    gain = results.gains(final)[1]
    screen.say(
        f"The service got better by itself: MRR@10 {results.base.figures.mrr:.3f} → "
        f"{final.figures.mrr:.3f} on queries that it had never seen "
        f"({gain.mean:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}).",
        "bold green",
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    options, screen = options_of(argv), Screen()
    try:
        return until_stopped(_tell(options, screen))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.say("interrupted; the fleet is stopped", "yellow")
        return 130
    except Exception as error:
        first = first_of(error)
        if not isinstance(first, EXPECTED):
            raise
        screen.say(f"The demonstration failed: {first}", "bold red")
        return 1


if __name__ == "__main__":
    sys.exit(main())
