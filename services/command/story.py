"""`consonance story`: what became of a batch, from its first feedback to the card in use."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

from schemas import address_of
from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, group, harmless, note, print_json, run, say
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from bus import Bus
    from services.command.story_chain import Chain
    from services.command.story_feedback import Piece
    from services.command.story_told import Moment, Story

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance story
        of the batch that was queued last

    consonance story banking
        of the newest version of a skill, or else of its domain's last batch

    consonance story banking@3 --json
    consonance story 1f0c2b9e
        of a batch, task, card, or piece of feedback, by its id or how it begins

Events come from the journal; lines of the logs stand between them where the
state folder is at hand. No text of a query or a passage is shown.
"""

NARROW: Final = 12
"""Columns of a duration."""

app = group("story", "Tell what became of a batch, from its first feedback to the card.", _EXAMPLES)


@app.default
def _story(
    asked: str | None = None,
    /,
    *,
    debug: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Tell what became of a batch, from its first feedback to the card in use.

    Parameters
    ----------
    asked
        A batch, task, skill, card or piece of feedback. Default: the newest batch
    debug
        Lines of the logs that were written at level debug, too
    json
        Write JSON
    """
    story = run(_found(asked, at, debug=debug))
    if json:
        print_json(story)
        return DONE
    say(harmless(f"{story.domain or 'no domain'}: {story.title}"))
    say("")
    for moment in story.moments:
        say(_row(moment))
    return DONE


async def _found(asked: str | None, at: Place, *, debug: bool) -> Story:
    from services.command.story_chain import spine_of
    from services.command.story_lines import lines_of
    from services.command.story_told import told

    async with connected(at) as bus:
        if (await bus.read(after=0, limit=1)).truncated:
            note("the journal has forgotten its beginning: what is told may lack some of it")
        spine = await spine_of(bus)
        chain = spine.newest() if asked is None else spine.chain(asked)
        if chain is None and asked is not None:
            chain = spine.of_feedback(asked)
        pieces = await _pieces(bus, chain, asked)
        if chain is None and not pieces:
            raise InputRefused(_unknown(asked, [] if asked is None else spine.near(asked)))
        names = {piece.id for piece in pieces} if chain is None else chain.correlations
        lines = lines_of(at.folder / "logs", names, debug=debug) if at.bus is None else []
        return told(chain, pieces, lines)


async def _pieces(bus: Bus, chain: Chain | None, asked: str | None) -> list[Piece]:
    from services.command.story_feedback import pieces_of

    if chain is None:
        return [] if asked is None else await pieces_of(bus, [asked], None, None)
    batches = list(chain.batches.values())
    if not batches:
        return []
    given: list[datetime] = [clash.timestamp for one in batches for clash in one.data.events]
    last = max(batch.sequence or 0 for batch in batches)
    return await pieces_of(bus, list(chain.feedback), min(given, default=None), last)


def _unknown(asked: str | None, near: list[str]) -> str:
    if asked is None:
        return "no batch was queued yet: clashes make one, and feedback makes clashes"
    hint = f"; did you mean {' or '.join(near)}?" if near else "; consonance skills list has names"
    return f"nothing in the journal is called {asked!r}{hint}"


def _row(moment: Moment) -> str:
    when = moment.time.astimezone()
    clock = f"{when:%H:%M:%S}.{when.microsecond // 1000:03d}"
    passed = "" if moment.after_s is None else duration(moment.after_s)
    mark, by = " ", ""
    if moment.type == "log":  # by whom an event was said, its type tells
        mark, by = "·", f"  [{address_of(moment.source or '')}]"
    return harmless(f"{clock} {passed:>{NARROW}} {mark} {moment.text}{by}")


def duration(seconds: float) -> str:
    """`+0.12 s`, `+3 min 20 s`, `+2 h 5 min`; a clock that goes after the other one's: `-…`."""
    sign, left = ("-" if seconds < 0 else "+"), abs(seconds)
    if left < 60:
        return f"{sign}{left:.2f} s"
    minutes, rest = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours} h {minutes} min" if hours else f"{sign}{minutes} min {rest} s"
