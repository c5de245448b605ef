"""What people want of skills: retired, pinned, forgotten; said on the bus, then awaited."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

from services.command.errors import DONE, Failed, InputRefused
from services.command.kit import FLAG, confirmed, print_json, run, say
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from schemas import DomainForgotten, ListedCard, SkillRetired

__all__ = ["forget", "pin", "retire", "unpin"]

PATIENCE: Final = 15.0
"""Seconds for the manager to do what it was asked."""

LAST_TO_FORGET: Final = "journal"


def retire(
    name: str,
    /,
    *,
    reason: str = "retired by hand",
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Take a version out of service; the one before it serves again.

    Parameters
    ----------
    name
        The skill
    reason
        Why; it stays with the card
    json
        Write JSON
    """

    async def work() -> tuple[ListedCard, SkillRetired, ListedCard | None]:
        from schemas import Event, SkillRetire, SkillRetired
        from services.command.cards import SERVING, client_at, listed, resolved

        async with client_at(at) as client:
            cards = await listed(client)
            card = resolved(cards, name)
            if card.state not in SERVING:
                raise InputRefused(f"{card.name}@{card.version} is {card.state}: it does not serve")
            wish = SkillRetire(
                name=card.name, version=card.version, digest=card.digest, reason=reason
            )
            async with client.bus.watch(SkillRetired) as told:
                await client.bus.publish(Event(data=wish, source=client.bus.source))
                try:
                    async with asyncio.timeout(PATIENCE):
                        async for event in told:
                            if event.data.digest == card.digest:
                                after = event.data.successor
                                return card, event.data, _by_digest(cards, after)
                except TimeoutError:
                    pass
        raise Failed(_not_yet("retire"))

    card, retired, after = run(work())
    if json:
        print_json(retired)
    else:
        then = f"{after.name}@{after.version} serves instead" if after else "none serves instead"
        say(f"{card.name}@{card.version} is retired; {then}")
    return DONE


def pin(name: str, /, *, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Have every encoder keep a version in memory, those that start later too.

    Parameters
    ----------
    name
        The skill
    json
        Write JSON
    """
    return _pin(name, at, pinned=True, json=json)


def unpin(name: str, /, *, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Let encoders put a version away again when they need room.

    Parameters
    ----------
    name
        The skill
    json
        Write JSON
    """
    return _pin(name, at, pinned=False, json=json)


def forget(
    domain: str,
    /,
    *,
    yes: Annotated[bool, FLAG] = False,
    timeout: float = 120.0,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Erase all feedback, passages and training data of a domain, in every store.

    The skill itself holds no text; it serves until it is retired.

    Parameters
    ----------
    domain
        The domain, which bears the name of its skill
    yes
        Do not ask
    timeout
        Seconds to wait until every store has said that it is done
    json
        Write JSON
    """
    import msgspec

    from schemas import DomainForget

    try:
        wish = msgspec.convert({"domain": domain}, DomainForget)
    except msgspec.ValidationError as error:
        raise InputRefused(f"{domain!r} is no domain's name, which is that of a skill") from error
    if not 0 < timeout <= 86_400:
        raise InputRefused(f"--timeout is more than 0 and at most 86400 seconds, not {timeout:g}")
    question = f"Erase what is known of {domain!r} everywhere? It cannot be undone."
    if not confirmed(question, yes=yes):
        raise InputRefused("nothing was erased")
    told = run(_forgotten(wish, timeout, at, say=(lambda _: None) if json else say))
    if json:
        print_json({"domain": domain, "stores": told})
    return DONE


async def _forgotten(
    wish: Any, timeout: float, at: Place, say: Callable[[str], None]
) -> list[DomainForgotten]:
    from schemas import DomainForgotten, Event

    told: list[DomainForgotten] = []
    async with connected(at) as bus, bus.watch(DomainForgotten) as done:
        asked = Event(data=wish, source=bus.source)
        await bus.publish(asked)
        try:
            async with asyncio.timeout(timeout):
                async for event in done:
                    if event.correlation_id != asked.id:
                        continue  # somebody else's wish
                    told.append(event.data)
                    kept = f", {event.data.kept} kept" if event.data.kept else ""
                    say(f"{event.data.service}: {event.data.erased} erased{kept}")
                    if event.data.service == LAST_TO_FORGET:
                        return told
        except TimeoutError:
            pass
    heard = ", ".join(one.service for one in told) or "none"
    raise Failed(
        f"not every store has said within {timeout:g} s that it forgot {wish.domain!r} (so far: "
        f"{heard}); the wish is in the journal, and those that are away will do it when they are "
        "back"
    )


def _pin(name: str, at: Place, *, pinned: bool, json: bool) -> int:
    async def work() -> ListedCard:
        from schemas import Event, SkillPin
        from services.command.cards import SERVING, client_at, found

        async with client_at(at) as client:
            card = await found(client, name)
            if pinned and card.state not in SERVING:
                raise InputRefused(f"{card.name}@{card.version} is {card.state}: it does not serve")
            wish = SkillPin(name=card.name, version=card.version, digest=card.digest, pinned=pinned)
            await client.bus.publish(Event(data=wish, source=client.bus.source))

            async def settled() -> ListedCard | None:
                now = _by_digest(await client.skills(timeout=PATIENCE), card.digest)
                return now if now is not None and now.pinned is pinned else None

            return await _until(settled, "pin" if pinned else "unpin")

    card = run(work())
    if json:
        from services.command.cards import facts_of

        print_json(facts_of(card))
    else:
        say(f"{card.name}@{card.version} is {'pinned' if card.pinned else 'not pinned'}")
    return DONE


def _by_digest(cards: Iterable[ListedCard], digest: str | None) -> ListedCard | None:
    return next((card for card in cards if card.digest == digest), None)


async def _until(settled: Callable[[], Awaitable[ListedCard | None]], wish: str) -> ListedCard:
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in itertools.count():
                if (found := await settled()) is not None:
                    return found
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    raise Failed(_not_yet(wish))


def _not_yet(wish: str) -> str:
    return (
        f"the adapter manager did not {wish} it within {PATIENCE:g} s; the wish is in the journal, "
        "and it will be met when the manager is back"
    )
