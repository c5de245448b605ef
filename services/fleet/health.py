"""Whether a process of the fleet is ready, as its heartbeats say; for whoever watches containers.

python -m services.fleet.health --config settings.toml --service encoder --instance 2
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bus import Bus, BusError, connect
from schemas import FleetHeartbeat
from services.errors import ServiceError
from services.runtime.settings import load_settings

__all__ = ["main", "trouble"]

HEALTHY = ("ready", "degraded")
"""What is degraded serves all the same, and a restart would not mend it."""

FAILED, REFUSED = 1, 2


async def trouble(bus: Bus, service: str, instance: str | None, seconds: float) -> str | None:
    """Why the service does not count as ready, None as soon as one of its processes says it is.

    `instance`: only this one's word counts; `seconds`: how long to listen.
    """
    state: str | None = None
    name = service if instance is None else f"{service}/{instance}"
    try:
        async with asyncio.timeout(seconds), bus.watch(FleetHeartbeat) as beats:
            async for event in beats:
                beat = event.data
                if beat.service == service and instance in (None, beat.instance):
                    if beat.state in HEALTHY:
                        return None
                    state = beat.state
    except TimeoutError:
        pass
    if state is None:
        return f"{name} said nothing within {seconds:g} s"
    return f"{name} is {state}, not ready"


async def _look(options: argparse.Namespace, url: str | None) -> str | None:
    ends = asyncio.get_running_loop().time() + options.timeout
    bus = await connect(url, source="/health/1", patience=options.timeout)
    async with bus:
        left = ends - asyncio.get_running_loop().time()
        return await trouble(bus, options.service, options.instance, max(left, 0.1))


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 where the service is ready, 1 with the reason on standard error, 2 for bad words."""
    parser = argparse.ArgumentParser(
        prog="python -m services.fleet.health",
        description="Exit 0 where a service says on the bus that it is ready, 1 otherwise.",
    )
    parser.add_argument("--service", required=True, help="router, encoder, ...; broker, too")
    parser.add_argument("--instance", default=None, help="only this process of it (any)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to listen (5)")
    parser.add_argument("--bus", default=None, help="bus URL (CONSONANCE_BUS, or .consonance's)")
    parser.add_argument("--config", type=Path, default=None, help="settings file (TOML)")
    options = parser.parse_args(argv)
    try:
        url = load_settings(options.config, {"fleet.bus": options.bus}).fleet.bus
    except ServiceError as error:
        print(f"health: {error}", file=sys.stderr)
        return REFUSED
    try:
        why = asyncio.run(_look(options, url))
    except BusError as error:
        why = str(error)
    if why is None:
        return 0
    print(f"health: {why}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
