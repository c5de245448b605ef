"""`consonance journal`: what was said durably, what nobody could handle, is it sound?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from cyclopts import Parameter

from services.command.dead import app as dead
from services.command.errors import DONE, FAILED, Failed, InputRefused
from services.command.groups import app as groups
from services.command.kit import (
    FLAG,
    MANY,
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
from services.command.place import HERE, HOME, Home, Place, connected

__all__ = ["app"]

T = TypeVar("T")

_EXAMPLES = """
Examples:

    consonance journal tail -n 50
    consonance journal tail --follow --types "skill.*"
    consonance journal replay --after 1200 --json > events.jsonl
    consonance journal heads

    consonance journal groups list
    consonance journal groups drop factory-attic
        of a process that is gone for good: nothing is kept for it any more

    consonance journal dead list
    consonance journal dead retry 17 18
        deliver again what a service could not handle, once it can

    consonance journal check
        with the fleet stopped: is the journal what was written to it?
    consonance journal repair
        write a damaged one anew from what can be read of it

    consonance journal erase --where domain=banking --types feedback.given
        for a whole domain, in every store: consonance skills forget
"""

app = group("journal", "Read the journal, and tend its groups and dead letters.", _EXAMPLES)
app.command(groups)
app.command(dead)


@app.command(help_epilogue=app.help_epilogue)
def tail(
    *,
    number: Annotated[int, Parameter(name=("--number", "-n"))] = 20,
    types: Annotated[tuple[str, ...], MANY] = (),
    follow: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Show the last events of the journal.

    Parameters
    ----------
    number
        How many
    types
        Event types, or patterns such as "skill.*". Default: all durable ones
    follow
        Go on with what comes
    json
        Write each event as one line of JSON
    """
    if number < 1:
        raise InputRefused(f"--number is at least 1, not {number}")

    async def work() -> int:
        from services.command.kinds import kinds_of
        from services.command.told import say_event
        from services.runtime.fleet_view_tail import tail as tail_of

        kinds = kinds_of(types, durable=True)
        async with connected(at) as bus:
            head = max((await bus.heads()).values(), default=0)
            for event in await tail_of(bus, kinds, number, head=head):
                say_event(event, json=json)
            if follow:
                async with bus.watch(kinds, after=head) as coming:
                    async for event in coming:
                        say_event(event, json=json)
        return DONE

    return run(work())


@app.command(help_epilogue=app.help_epilogue)
def replay(
    *,
    after: int = 0,
    until: Annotated[int | None, UNSAID] = None,
    types: Annotated[tuple[str, ...], MANY] = (),
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Write what the journal has from a place on, and end; nothing is delivered anew.

    Parameters
    ----------
    after
        The sequence before the first
    until
        The last sequence. Default: the last there is
    types
        Event types, or patterns such as "skill.*". Default: all durable ones
    json
        Write each event as one line of JSON
    """
    if after < 0:
        raise InputRefused(f"--after is a sequence, from 0 on, not {after}")

    async def work() -> int:
        from services.command.kinds import kinds_of
        from services.command.past import from_place
        from services.command.told import say_event

        kinds = kinds_of(types, durable=True)
        async with connected(at) as bus:
            if (await bus.read(kinds, after=after, limit=1)).truncated:
                note(f"the journal has forgotten some of what followed {after}")
            async for event in from_place(bus, kinds, after, until):
                say_event(event, json=json)
        return DONE

    return run(work())


@app.command(help_epilogue=app.help_epilogue)
def heads(*, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Show the last sequence of every type.

    Parameters
    ----------
    json
        Write JSON
    """

    async def work() -> dict[str, int]:
        async with connected(at) as bus:
            return dict(await bus.heads())

    found = run(work())
    if json:
        print_json({"heads": found})
    elif found:
        show(table("type", ">last", rows=sorted(found.items())))
    else:
        note("the journal is empty")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def erase(
    *,
    types: Annotated[tuple[str, ...], MANY],
    where: Annotated[tuple[str, ...], MANY],
    yes: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Erase events whose data has all the values given, from the journal alone.

    Parameters
    ----------
    types
        Event types, or patterns such as "feedback.*"
    where
        FIELD=VALUE of the data, such as domain=banking; only a value that is text is found
    yes
        Do not ask
    json
        Write JSON
    """
    from services.command.kinds import kinds_of

    wanted: dict[str, str] = {}
    for pair in where:
        field, sign, value = pair.partition("=")
        if not sign or not field:
            raise InputRefused(f"--where is FIELD=VALUE, not {pair!r}")
        if wanted.get(field, value) != value:
            raise InputRefused(
                f"no event has two values of {field}: erase the ones, then the others"
            )
        wanted[field] = value
    kinds = kinds_of(types, durable=True)
    if not types or not wanted:
        raise InputRefused("--types and --where say which events; without them it would be all")
    told = ", ".join(kind.type for kind in kinds)
    question = f"Erase every {told} with {' and '.join(where)}? It cannot be undone."
    if not confirmed(question, yes=yes):
        raise InputRefused("nothing was erased")

    async def work() -> int:
        async with connected(at) as bus:
            return await bus.erase(kinds, wanted)

    count = run(work())
    print_json({"erased": count}) if json else say(f"{count} erased")
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def check(*, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """Read all of the journal of a fleet that is stopped, and say whether it is sound.

    Some 5 s for a GiB. A broker does the same at every start.

    Parameters
    ----------
    json
        Write JSON
    """
    from bus.journal.repair import check as checked

    wrong = _stopped(lambda: checked(at.folder))
    if json:
        print_json({"sound": wrong is None, "trouble": wrong})
    elif wrong is None:
        say("the journal is sound")
    else:
        note(wrong)
    return FAILED if wrong else DONE


@app.command(help_epilogue=app.help_epilogue)
def repair(*, at: Home = HOME, json: Annotated[bool, FLAG] = False) -> int:
    """Write a damaged journal anew from what can be read of it; the damaged file stays beside it.

    Every event on a page that can be read is kept, and so is how far each process is, where that
    can be read. Says how many events were kept and which numbers are lost. A sound journal is
    left as it is.

    Parameters
    ----------
    json
        Write JSON
    """
    from bus.journal.repair import repair as repaired

    report = _stopped(lambda: repaired(at.folder))
    if json:
        print_json({"repaired": report is not None, "report": report})
    else:
        say("the journal is sound: nothing was changed" if report is None else report.sentence())
    return DONE


def _stopped(work: Callable[[], T]) -> T:
    """Do what needs the journal's file; raises `InputRefused` while the fleet runs, `Failed`."""
    from bus import BusError, InUse

    try:
        return work()
    except InUse as error:
        raise InputRefused(str(error)) from error
    except BusError as error:
        raise Failed(str(error)) from error
