"""The broker process, and the keys it admits: `python -m bus --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bus.access import command
from bus.broker.broker import Broker
from bus.errors import BusError, Damaged
from bus.settings import load_settings

DESCRIPTORS = 2**16
"""Open files that the broker asks the system for: each client takes three."""
EPILOG = """\
examples:
  python -m bus                                     the broker on ipc, state in .consonance
  python -m bus --state /var/lib/consonance --url tcp://0.0.0.0:5550
  python -m bus keys broker                         the broker's keys (also made at its start)
  python -m bus keys client laptop                  admit a client that speaks as /laptop/…
  python -m bus keys client gpu-1 --role encoder --source /encoder/gpu-1
  python -m bus keys list
  python -m bus keys revoke laptop
  python -m bus check                               read all of the journal: is it sound?
  python -m bus repair                              write a damaged one anew from what it still has

over tcp a client needs two files: its pair (STATE/keys/laptop.key_secret, named by
CONSONANCE_KEY) and the broker's public key (STATE/keys/broker.key, CONSONANCE_SERVER_KEY).
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bus",
        description="The broker: carries live events, keeps durable ones in STATE/journal.sqlite.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--state", type=Path, default=Path(".consonance"), help="state folder (%(default)s)"
    )
    parser.add_argument(
        "--url", help="ipc:///folder (default: STATE/bus) or tcp://host:port, which takes 3 ports"
    )
    parser.add_argument("--config", type=Path, help="TOML file whose [bus] table is used")
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    commands = parser.add_subparsers(dest="command", metavar="")
    command.add_parser(commands)
    for name, text in (
        ("check", "read all of the journal while no broker runs: 0 sound, 1 damaged"),
        ("repair", "write a damaged journal anew from what can be read; the old one is kept"),
    ):
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--state", type=Path, default=argparse.SUPPRESS, help="state folder")
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    _raise_limit()
    url = arguments.url or f"ipc://{(arguments.state / 'bus').absolute()}"
    async with Broker(url, arguments.state, load_settings(arguments.config)):
        print(f"broker ready at {url}", flush=True)
        await stop.wait()


def _raise_limit() -> None:
    """As many descriptors as the system lets this process have; it begins with fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as e:  # a system with a bound of its own
            logging.getLogger(__name__).info("descriptors stay at %d: %s", soft, e)


def _check(state: Path) -> int:
    from bus.journal.repair import check

    wrong = check(state)
    print(wrong or "the journal is sound")
    return 1 if wrong else 0


def _repair(state: Path) -> int:
    from bus.journal.repair import repair

    report = repair(state)
    print("the journal is sound: nothing was changed" if report is None else report.sentence())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 after an orderly stop, otherwise one sentence on standard error.

    1 for what may pass, 2 for a damaged journal: starting again would not help.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        if arguments.command == "keys":
            command.run(arguments)
        elif arguments.command == "check":
            return _check(arguments.state)
        elif arguments.command == "repair":
            return _repair(arguments.state)
        else:
            asyncio.run(_serve(arguments))
    except Damaged as e:
        print(f"bus: in {arguments.state.absolute()} {e}", file=sys.stderr)
        return 2
    except BusError as e:
        print(f"bus: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
