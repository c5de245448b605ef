"""`consonance card import`: somebody else's adapter becomes a card, and on request a skill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from services.command.errors import DONE, InputRefused
from services.command.files import check_free
from services.command.kit import FLAG, MANY, UNSAID, note, print_json, run, say
from services.command.place import HERE, Place

if TYPE_CHECKING:
    from lora.card import LoRACard
    from schemas import SkillCard

__all__ = ["import_"]


def import_(
    source: Path,
    /,
    *,
    name: Annotated[str | None, UNSAID] = None,
    out: Annotated[Path | None, UNSAID] = None,
    publish: Annotated[bool, FLAG] = False,
    model: Annotated[str | None, UNSAID] = None,
    alpha: Annotated[float | None, UNSAID] = None,
    description: Annotated[str | None, UNSAID] = None,
    applies_to: Annotated[tuple[Literal["query", "document"], ...], MANY] = (),
    force: Annotated[bool, FLAG] = False,
    timeout: float = 60.0,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Make a card of somebody else's adapter, or take a card's file; keep it, or publish it.

    Parameters
    ----------
    source
        A PEFT folder, a .safetensors file, or a card's file
    name
        The skill. Default: what the card, or the file, is called
    out
        Write the card into this file, NAME.lora.arrow
    publish
        Make it a skill of the running fleet; it has passed no gate, and serves where it is named
    model
        The model that it was made for. Default: that of the fleet
    alpha
        For safetensors that do not say theirs
    description
        What it is for, in a sentence
    applies_to
        What it bends; with document stored vectors must be made anew. Default: query
    force
        Replace the file where it exists
    timeout
        Seconds for the fleet to install it
    json
        Write JSON
    """
    from lora.card import EXTENSION, LoRAFormat
    from services.command.authorship import author_of
    from services.command.importing import import_card

    if out is None and not publish:
        raise InputRefused("say what becomes of it: --out FILE, --publish, or both")
    if out is not None:
        if not out.name.endswith(EXTENSION):
            raise InputRefused(f"a card's file is called NAME{EXTENSION}, not {out.name}")
        check_free(out, force=force)
    about: dict[str, Any] = {}
    if description is not None:
        about["description"] = description
    if applies_to:
        about["applies_to"] = applies_to
    chosen = at.settings.fleet.model if model is None else None if model == "default" else model
    made, signed = import_card(source, name=name, model=chosen, alpha=alpha, about=about)
    if signed is not None:
        author = author_of(signed, at.folder / "keys", note)
        if author.standing == "forged" or (publish and author.standing == "untrusted"):
            raise InputRefused(f"{source} is not taken: {author.reason}")
        if author.standing == "own":
            signed = None
    if out is not None:
        made = LoRAFormat.write(made, out)
    facts = {"name": made.name, "version": made.version, "digest": made.digest}
    if publish:
        done = run(_published(made, signed, timeout, at))
        facts = {"name": done.name, "version": done.version, "digest": done.digest}
    if json:
        print_json({**facts, "installed": publish, "out": None if out is None else str(out)})
    else:
        where = " and ".join(
            word for word in ("installed" if publish else "", f"in {out}" if out else "") if word
        )
        say(f"{facts['name']}@{facts['version']} {facts['digest']}: {where}")
    return DONE


async def _published(
    card: LoRACard, author: SkillCard | None, timeout: float, at: Place
) -> SkillCard:
    from services.command.cards import client_at
    from services.command.publishing import publish, store_of

    store = store_of(at.folder, at.settings.store)
    async with client_at(at) as client:
        return await publish(client, store, card, author, timeout)
