"""`consonance watch`: what is said on the bus, from now on or from a place in the journal."""

from __future__ import annotations

from typing import Annotated

from services.command.errors import DONE, Failed, InputRefused
from services.command.kit import FLAG, MANY, UNSAID, group, note, run
from services.command.place import HERE, Place, connected

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance watch
        everything but heartbeats, a line an event

    consonance watch --types "skill.*" training.progressed
        types by name or pattern

    consonance watch --after 0 --types feedback.judged --json
        JSON lines of whole CloudEvents, beginning with what the journal has

    consonance watch --types skill.installed --count 1
        wait until a skill is installed, and end

Events of the live lane are heard from now on; --after replays durable ones,
each once and without a gap. Ctrl-C ends it (130).
"""

app = group("watch", "Follow what is said on the bus.", _EXAMPLES)


@app.default
def _watch(
    *,
    types: Annotated[tuple[str, ...], MANY] = (),
    after: Annotated[int | None, UNSAID] = None,
    count: Annotated[int | None, UNSAID] = None,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Follow what is said on the bus.

    Parameters
    ----------
    types
        Event types, or patterns such as "skill.*". Default: all but fleet.heartbeat
    after
        Begin after this sequence of the journal; 0 for all that it has
    count
        End after so many events
    json
        Write each event as one line of JSON
    """
    if after is not None and after < 0:
        raise InputRefused(f"--after is a sequence, from 0 on, not {after}")
    if count is not None and count < 1:
        raise InputRefused(f"--count is at least 1, not {count}")
    return run(_work(types, after, count, at, json=json))


async def _work(
    types: tuple[str, ...], after: int | None, count: int | None, at: Place, *, json: bool
) -> int:
    from schemas import FleetHeartbeat
    from services.command.kinds import kinds_of
    from services.command.told import say_event

    kinds = kinds_of(types)
    if not types:
        kinds = tuple(kind for kind in kinds if kind is not FleetHeartbeat)
    seen = 0
    async with connected(at) as bus, bus.watch(kinds, after=after) as events:
        if events.truncated:
            note(f"the journal has forgotten some of what followed {after}")
        async for event in events:
            say_event(event, json=json)
            seen += 1
            if seen == count:
                return DONE
    raise Failed("the bus has closed")
