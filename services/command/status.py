"""`consonance status`: what a fleet is doing, once or as it goes on."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Final

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, group, json_line, note, print_json, run, say, show
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from schemas import BaseModelRef
    from services.runtime.fleet_view import FleetView

__all__ = ["app"]

SETTLING: Final = 5.0
"""Seconds for every process to say that it is alive, and for the list of skills."""

_EXAMPLES = """
Examples:

    consonance status
        processes, requests of the last minute, open batches, skills, peers

    consonance status --watch
        the same, renewed every 2 s until Ctrl-C

    consonance status --json
        as GET /v1/status of the HTTP API answers

It takes some 2 s: processes say that they are alive so often.
"""

app = group("status", "Show what the fleet is doing.", _EXAMPLES)


@app.default
def _status(
    *,
    watch: Annotated[bool, FLAG] = False,
    every: float = 2.0,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Show what the fleet is doing: processes, requests, the loop, skills, peers.

    Parameters
    ----------
    watch
        Go on showing it
    every
        With --watch: seconds between two looks
    json
        Write JSON; with --watch a line each time
    """
    if not 0.2 <= every <= 3600:
        raise InputRefused(f"--every is from 0.2 to 3600 seconds, not {every:g}")
    return run(_work(at, every if watch else None, json=json))


async def _work(at: Place, every: float | None, *, json: bool) -> int:
    from services.runtime.fleet_view import FleetView

    async with connected(at) as bus, FleetView(bus, model=await _model(at)) as view:
        whole = await view.settle(SETTLING)
        if not whole:
            note("not every process has told of itself: what is shown may lack something")
        if every is not None:
            await _watch(view, at, every, json=json)
        elif json:
            print_json(view.snapshot())
        else:
            from services.command.picture import picture

            show(picture(view.snapshot(), at.url))
    return DONE


async def _model(at: Place) -> BaseModelRef | None:
    """The fleet's model, where its settings lie here: no event tells it before a card does."""
    from lora.errors import LoRAError
    from lora.model import find_model
    from schemas import BaseModelRef

    if at.bus is not None or not (at.folder / "fleet" / "settings.toml").is_file():
        return None
    try:
        found = (await asyncio.to_thread(find_model, at.settings.fleet.model)).base_model
    except LoRAError:  # the fleet found it: it runs where this one lies differently
        return None
    return BaseModelRef(id=found.id, sha256=found.sha256)


async def _watch(view: FleetView, at: Place, every: float, *, json: bool) -> None:
    from rich.live import Live

    from services.command.picture import picture

    if json:
        while True:
            say(json_line(view.snapshot()))
            await asyncio.sleep(every)
    url = at.url
    if not sys.stdout.isatty():
        while True:
            show(picture(view.snapshot(), url))
            await asyncio.sleep(every)
    with Live(picture(view.snapshot(), url), auto_refresh=False, screen=True) as live:
        while True:
            live.update(picture(view.snapshot(), url), refresh=True)
            await asyncio.sleep(every)
