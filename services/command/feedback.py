"""`consonance feedback`: one piece by options, or many as JSON lines, each journaled once."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from services.command.errors import DONE, REFUSED, InputRefused
from services.command.kit import (
    FLAG,
    MANY,
    OR_STDIN,
    UNSAID,
    group,
    note,
    print_json,
    run,
    say,
    source_of,
)
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from schemas import FeedbackGiven
    from services.command.intake import Intake

__all__ = ["app"]

LONGEST: Final = 16 << 20
"""Bytes of a line; what the journal takes is less, and it says so of each line."""

_EXAMPLES = """
Examples:

    consonance feedback --query "card not here" --relevant "Delivery times" \\
        --irrelevant "Lost cards" "Fees" --domain banking
        one piece; prints its id once it is on the disk of the fleet

    consonance feedback given.jsonl
    zcat given.jsonl.gz | consonance feedback --domain banking
        many: a JSON object a line with query, relevant, irrelevant, and where
        it is known domain and served (digests of the cards that answered)

Lines that are refused are told with their number, the others are taken, and
the exit code is 2; a line of more than 16 MiB ends it. Interrupted, or run
twice over one file, it takes no line twice: what is journaled already is
counted as known. What was forgotten since (skills forget) is taken again where
a line, or --domain, says its domain.
"""

app = group("feedback", "Tell what people found relevant to a query.", _EXAMPLES)


@app.default
def _feedback(
    file: Annotated[Path | None, OR_STDIN] = None,
    /,
    *,
    query: Annotated[str | None, UNSAID] = None,
    relevant: Annotated[tuple[str, ...], MANY] = (),
    irrelevant: Annotated[tuple[str, ...], MANY] = (),
    domain: Annotated[str | None, UNSAID] = None,
    served: Annotated[tuple[str, ...], MANY] = (),
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Tell the fleet what people found relevant to a query, and what not.

    Parameters
    ----------
    file
        Feedback as JSON lines. Default without --query, and -: standard input
    query
        One piece: what was asked
    relevant
        Passages that answer it
    irrelevant
        Passages that were shown and do not
    domain
        What it is about; of lines that do not say so, too. Default: the fleet finds out
    served
        Digests of the cards that made the answer. Default: the fleet asks its router
    json
        Write what became of it as JSON
    """
    from services.command.intake import Line, piece_of

    if query is None:
        if relevant or irrelevant or served:
            raise InputRefused("--relevant, --irrelevant and --served go with --query")
        if file is None and sys.stdin.isatty():
            raise InputRefused("give --query, a file of JSON lines, or pipe them in")
        taken = run(_many(source_of(file), domain, at))
        return _summed_up(taken, json=json)
    if file is not None:
        raise InputRefused("give --query or a file, not both")
    line = Line(
        query=query,
        relevant=relevant,
        irrelevant=irrelevant,
        domain=domain,
        served=served or None,
    )
    name, sequence = run(_one(piece_of(line, None), at))
    if json:
        print_json({"id": name, "sequence": sequence})
    else:
        say(name)
    return DONE


async def _one(piece: FeedbackGiven, at: Place) -> tuple[str, int | None]:
    from schemas import Event

    async with connected(at) as bus:
        event = Event(data=piece, source=bus.source)
        (sequence,) = await bus.publish(event)
        return event.id, sequence


async def _many(file: Path | None, domain: str | None, at: Place) -> Intake:
    from services.command.intake import Intake
    from services.command.lines import lines_of, opened
    from services.command.progress import counting

    with opened(file) as raw:
        async with connected(at) as bus:
            taken = Intake(bus, domain, say=note)
            with counting("pieces", raw.size) as tell:
                try:
                    async with aclosing(lines_of(raw, LONGEST)) as lines:
                        async for line, paused in lines:
                            await taken.add(line)
                            if paused:
                                await taken.flush()
                            tell(1, len(line) + 1)
                    await taken.flush()
                except InputRefused:  # a line too long: where the next begins nobody knows
                    await taken.flush()
                    note(f"nothing behind the line at fault is taken; before it, {taken.told}")
                    raise
                except BaseException:
                    # Of the last handful nobody knows: its receipt may have been on its way.
                    note(
                        f"{taken.lines:,} lines were read and at least {taken.journaled:,} "
                        "journaled; run it again to go on, none is taken twice"
                    )
                    raise
    return taken


def _summed_up(taken: Intake, *, json: bool) -> int:
    if not taken.lines:
        raise InputRefused("there is no feedback in it")
    if json:
        print_json(msgspec.to_builtins(taken.summary()))
    else:
        say(taken.told)
    return REFUSED if taken.refused else DONE
