"""`consonance journal dead`: what nobody could handle, and what shall become of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from services.command.errors import DONE, InputRefused
from services.command.kit import (
    FLAG,
    UNSAID,
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
    from bus import DeadLetter

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance journal dead list
    consonance journal dead list --group distiller --json
    consonance journal dead retry --all
    consonance journal dead drop 17 --yes
"""

app = group("dead", "Events that a service failed to handle for good.", _EXAMPLES)

_ALL = Annotated[bool, Parameter(name="--all", negative="", show_default=False)]
_GROUP = Annotated[str | None, Parameter(name="--group", show_default=False)]


@app.command(name="list", help_epilogue=app.help_epilogue)
def list_(
    *,
    service: _GROUP = None,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """List the dead letters: what, whose, and why.

    Parameters
    ----------
    service
        Of this service alone
    json
        Write JSON
    """
    letters = run(_dead("list", at, service, None))
    if json:
        print_json({"dead": [_facts(letter) for letter in letters]})
    elif letters:
        show(_listing(letters))
    else:
        note("there are no dead letters")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def retry(
    *numbers: Annotated[int, UNSAID],
    every: _ALL = False,
    service: _GROUP = None,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Deliver dead letters again.

    Parameters
    ----------
    numbers
        Which, by the number that `list` shows
    every
        All of them
    service
        Of this service alone
    json
        Write JSON
    """
    ids = _chosen(numbers, service, every=every)
    return _done(run(_dead("retry", at, service, ids)), ids, "to be delivered again", json=json)


@app.command(help_epilogue=app.help_epilogue)
def drop(
    *numbers: Annotated[int, UNSAID],
    every: _ALL = False,
    service: _GROUP = None,
    yes: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Drop dead letters: nobody will handle them any more.

    Parameters
    ----------
    numbers
        Which, by the number that `list` shows
    every
        All of them
    service
        Of this service alone
    yes
        Do not ask
    json
        Write JSON
    """
    ids = _chosen(numbers, service, every=every)
    told = "all dead letters" if ids is None else f"{len(ids)} dead letters"
    if not confirmed(f"Drop {told}? It cannot be undone.", yes=yes):
        raise InputRefused("nothing was dropped")
    return _done(run(_dead("drop", at, service, ids)), ids, "dropped", json=json)


async def _dead(
    action: Literal["list", "retry", "drop"],
    at: Place,
    service: str | None,
    ids: Sequence[int] | None,
) -> tuple[DeadLetter, ...]:
    async with connected(at) as bus:
        return await bus.dead_letters(action, group=service, ids=ids)


def _chosen(numbers: Sequence[int], service: str | None, *, every: bool) -> Sequence[int] | None:
    """The numbers, None for all; raises `InputRefused` where neither was said, or both."""
    all_of_them = every or (service is not None and not numbers)
    if bool(numbers) == all_of_them:
        raise InputRefused("say which by their numbers, or --all, or all of one --group")
    return tuple(numbers) or None


def _done(
    letters: Sequence[DeadLetter], ids: Sequence[int] | None, what: str, *, json: bool
) -> int:
    """Tell of it; raises `InputRefused` where a number is no dead letter's."""
    found = {letter.id for letter in letters}
    if json:
        print_json({"dead": [_facts(letter) for letter in letters]})
    else:
        say(f"{len(letters)} {what}")
    missing = [str(number) for number in ids or () if number not in found]
    if missing:
        raise InputRefused(f"there is no dead letter {', '.join(missing)}")
    return DONE


def _facts(letter: DeadLetter) -> dict[str, Any]:
    import msgspec

    from schemas import encode

    raw = None if letter.event is None else msgspec.Raw(encode(letter.event))
    return {
        "id": letter.id,
        "group": letter.group,
        "reason": letter.reason,
        "event": raw,
        "raw": None if raw is not None else letter.raw.decode("utf-8", "replace"),
    }


def _listing(letters: Sequence[DeadLetter]) -> Any:
    return table(
        *(">number", "group", "type", "since", "reason"),
        rows=[
            (
                letter.id,
                letter.group,
                "unreadable" if letter.event is None else letter.event.type,
                "" if letter.event is None else f"{letter.event.time.astimezone():%Y-%m-%d %H:%M}",
                letter.reason,
            )
            for letter in letters
        ],
    )
