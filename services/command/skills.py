"""`consonance skills`: which there are, what became of them, and what shall become of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from services.command import wishes
from services.command.errors import DONE
from services.command.kit import FLAG, group, note, print_json, run, say_facts, show, table
from services.command.place import HERE, Place

if TYPE_CHECKING:
    from schemas import ListedCard
    from services.runtime.client import FleetClient

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance skills list
    consonance skills show banking
    consonance skills history banking --json
    consonance skills pin banking@3
        every encoder keeps it in memory
    consonance skills retire banking@3 --reason "wrong answers about fees"
        the version before it serves again
    consonance skills forget banking
        erase its feedback, passages and training data everywhere

A skill is named as in requests: NAME, NAME@3, a digest, 12 of its digits or
PEER/NAME.
"""

app = group("skills", "List, show, retire, pin and forget skills.", _EXAMPLES)

_ALL = Annotated[bool, Parameter(name="--all", negative="", show_default=False)]


@app.command(name="list", help_epilogue=app.help_epilogue)
def list_(*, every: _ALL = False, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """List the skills that serve, newest versions first.

    Parameters
    ----------
    every
        Those that are retired, rejected or pending, too
    json
        Write JSON
    """

    async def work() -> list[ListedCard]:
        from services.command.cards import SERVING, client_at, listed

        async with client_at(at) as client:
            cards = await listed(client)
        return [card for card in cards if every or card.state in SERVING]

    cards = run(work())
    if json:
        from services.command.cards import facts_of

        print_json({"skills": [facts_of(card) for card in cards]})
    elif cards:
        show(_listing(cards))
    else:
        note("no skill is installed" if not every else "no skill is known")
    return DONE


@app.command(name="show", help_epilogue=app.help_epilogue)
def show_(name: str, /, *, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Show one skill: its figures, its lineage, whose it is.

    Parameters
    ----------
    name
        The skill
    json
        Write JSON
    """
    from services.command.cards import client_at, facts_of, found

    async def work() -> ListedCard:
        async with client_at(at) as client:
            return await found(client, name)

    card = run(work())
    facts = facts_of(card)
    if json:
        print_json(facts)
        return DONE
    say_facts(f"{card.name}@{card.version}", facts)
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def history(name: str, /, *, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Tell what the journal knows of a skill: trainings, verdicts, versions, retirements.

    Parameters
    ----------
    name
        The skill; all its versions are told
    json
        Write each event as one line of JSON
    """

    from services.command.cards import client_at, found
    from services.command.past import happenings
    from services.command.told import say_event

    async def work() -> int:
        async with client_at(at) as client:
            if await tell(client, name):
                return DONE
            meant = (await found(client, name)).name  # refuses a name that nobody has
            if meant == name or not await tell(client, meant):
                note(f"the journal has forgotten what became of {meant}")
        return DONE

    async def tell(client: FleetClient, plain: str) -> int:
        count = 0
        async for event in happenings(client.bus, plain):
            say_event(event, json=json)
            count += 1
        return count

    return run(work())


for _wish in (wishes.retire, wishes.pin, wishes.unpin, wishes.forget):
    app.command(_wish, help_epilogue=app.help_epilogue)


def _listing(cards: Sequence[ListedCard]) -> Any:
    return table(
        *("skill", ">version", "state", "", ">rank", ">gain", "95 % interval", "digest", "by"),
        rows=[
            (
                card.name,
                card.version,
                card.state,
                "pinned" if card.pinned else "",
                card.rank,
                _signed(card.metrics.get("gain")),
                _interval(card.metrics.get("low"), card.metrics.get("high")),
                card.digest[7:19],
                card.peer or (card.signer or "")[:16] or "this node",
            )
            for card in cards
        ],
    )


def _signed(value: float | int | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _interval(low: float | int | None, high: float | int | None) -> str:
    return "" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
