"""Event types as people write them: `skill.installed`, `skill.*`, several with commas."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from schemas import Lane, Payload, catalogue
from services.command.errors import InputRefused

__all__ = ["kinds_of"]


def kinds_of(words: Iterable[str], *, durable: bool = False) -> tuple[type[Payload], ...]:
    """The event types that the words mean; all where there are none.

    Addressed ones are left out, as they travel between two processes; with `durable` live ones
    too. Raises `InputRefused`.
    """
    offered: dict[str, type[Any]] = {
        name: kind
        for name, kind in catalogue().items()
        if not kind.addressed and (kind.lane is Lane.DURABLE or not durable)
    }
    given = tuple(words)
    wanted = [part.strip() for word in given for part in word.split(",") if part.strip()]
    if given and not wanted:  # an empty variable of a script: that is not all of them
        raise InputRefused("--types names no event type")
    found: dict[str, type[Payload]] = {}
    for word in wanted:
        matching = [name for name in offered if fnmatchcase(name, word)]
        if not matching:
            raise InputRefused(_unknown(word, offered, durable=durable))
        found |= {name: offered[name] for name in matching}
    return tuple((found or offered).values())


def _unknown(word: str, offered: Iterable[str], *, durable: bool) -> str:
    known = catalogue().get(word)
    if known is not None and known.addressed:
        return f"{word} goes from one process to another: it cannot be watched"
    if known is not None and durable:
        return f"{word} is live: the journal keeps none of it"
    near = difflib.get_close_matches(word, list(offered), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(offered)}"
    return f"there is no event type {word!r}; {hint}"
