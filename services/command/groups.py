"""`consonance journal groups`: who consumes, how far behind they are, and who is gone for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from services.command.errors import DONE, InputRefused
from services.command.kit import (
    FLAG,
    confirmed,
    group,
    note,
    print_json,
    run,
    say,
    show,
    table,
)
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from bus import GroupState

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance journal groups list
    consonance journal groups drop factory-attic
        of a machine that is gone for good: the journal keeps nothing for it any more
"""

app = group("groups", "Who consumes the journal's events, and how far they are.", _EXAMPLES)


@app.command(name="list", help_epilogue=app.help_epilogue)
def list_(*, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """List the groups: how far behind, since when, and whether anybody consumes.

    Parameters
    ----------
    json
        Write JSON
    """

    async def work() -> tuple[GroupState, ...]:
        async with connected(at) as bus:
            return await bus.groups()

    groups = run(work())
    if json:
        print_json({"groups": groups})
    elif groups:
        show(_listing(groups))
    else:
        note("nobody has consumed anything yet")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def drop(
    name: str,
    *,
    force: Annotated[bool, FLAG] = False,
    yes: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Forget a group, with its dead letters: the journal keeps nothing for it any more.

    Whoever consumes as it later begins anew, with what the journal still has.

    Parameters
    ----------
    name
        The group, as `list` shows it
    force
        Though somebody consumes: what it has in hand comes again
    yes
        Do not ask
    json
        Write JSON
    """

    from bus import Consumed

    try:
        found = run(_found(name, at, force=force))
        left = f"{_behind(found)} events that it has yet to handle"
        question = f"Drop the group {name}, with {left} and {found.dead} dead letters?"
        if not confirmed(f"{question} It cannot be undone.", yes=yes):
            raise InputRefused("nothing was dropped")
        dropped = run(_dropped(name, at, force=force))
    except Consumed as error:
        raise InputRefused(f"{error} (--force)") from error
    if json:
        print_json({"dropped": dropped})
    else:
        say(f"{name} was dropped already" if dropped is None else f"{name} dropped")
    return DONE


async def _found(name: str, at: Place, *, force: bool) -> GroupState:
    """How the group stands; raises `InputRefused` where there is none, `Consumed`."""
    from bus import Consumed

    async with connected(at) as bus:
        groups = await bus.groups()
    found = next((one for one in groups if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in groups) or "none"
        raise InputRefused(f"there is no group {name!r}; there are: {known}")
    if found.consumed and not force:
        raise Consumed.of(name)
    return found


async def _dropped(name: str, at: Place, *, force: bool) -> GroupState | None:
    async with connected(at) as bus:
        return await bus.drop_group(name, force=force)


def _behind(one: GroupState) -> str:
    return f"{one.behind}+" if one.more else str(one.behind)


def _listing(groups: Sequence[GroupState]) -> Any:
    return table(
        *("group", ">behind", "since", "consumed", ">dead letters"),
        rows=[
            (
                one.name,
                _behind(one),
                one.since and f"{one.since.astimezone():%Y-%m-%d %H:%M}",
                "yes" if one.consumed else "no",
                one.dead,
            )
            for one in groups
        ],
    )
