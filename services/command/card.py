"""`consonance card`: skill cards as files, from others and for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from lora import commands as instruments
from services.command.card_import import import_
from services.command.errors import DONE, FAILED, Failed, InputRefused
from services.command.kit import (
    FLAG,
    UNSAID,
    group,
    note,
    print_json,
    run,
    say,
    say_facts,
    show,
    table,
)
from services.command.place import HERE, Place

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance card inspect bank.lora.arrow
    consonance card verify bank.lora.arrow --trusted
        format, digest, and the signature beside it (bank.lora.arrow.sig)

    consonance card import ./peft-adapter --name bank --publish
        a PEFT folder becomes a skill of the running fleet

    consonance card import head.safetensors --name bank --out bank.lora.arrow
    consonance card export banking@3 --out ./peft-banking
        a PEFT folder; NAME.lora.arrow and NAME.safetensors make files

    consonance card export banking --out small.lora.arrow --dtype int8
        a quarter of the bytes

    consonance card extract ./base ./tuned --out bank.lora.arrow --energy 0.9
    consonance card probe default --texts questions.txt

A card is a file, a digest (or 12 of its digits) in the state folder's store,
or a skill of the running fleet by name. A model is a folder, a hub id, or the
word default.
"""

app = group("card", "Inspect, verify, import, export and make skill cards.", _EXAMPLES)


@app.command(help_epilogue=app.help_epilogue)
def inspect(card: str, /, *, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """Show what a card says of itself, once it is found sound.

    Parameters
    ----------
    card
        File, digest or skill
    json
        Write JSON
    """
    from services.command.cardfiles import facts_of, held, opened

    read, _ = opened(run(held(card, at)))
    facts = facts_of(read)
    if json:
        print_json(facts)
        return DONE
    modules = facts.pop("modules")
    say_facts(f"{read.name}@{read.version}", facts)
    rows = [
        (one["module"], f"{one['inputs']} → {one['outputs']}", one["rank"], f"{one['alpha']:g}")
        for one in modules
    ]
    show(table("module", "shape", ">rank", ">alpha", rows=rows))
    return DONE


@app.command(help_epilogue=app.help_epilogue)
def verify(
    card: str,
    /,
    *,
    digest: Annotated[str | None, UNSAID] = None,
    trusted: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Check a card: its format, every value, its digest, its author's signature.

    The exit code is 1 where it is not sound or its signature is forged.

    Parameters
    ----------
    card
        File, digest or skill
    digest
        What its bytes must have, sha256: and 64 digits
    trusted
        It must be signed, by this node or by somebody on its trust list
    json
        Write JSON
    """
    from lora.errors import CardError, CardNotFoundError
    from services.command.authorship import author_of
    from services.command.cardfiles import held, opened

    found = run(held(card, at))
    wanted = found if digest is None else found._replace(digest=digest)
    try:
        read, told = opened(wanted)
    except CardNotFoundError as error:
        raise InputRefused(str(error)) from error
    except CardError as error:
        raise Failed(f"not sound: {error}") from error
    author = author_of(told, at.folder / "keys", note)
    good = author.standing in ("own", "trusted") or (
        not trusted and author.standing in ("unsigned", "untrusted")
    )
    if json:
        print_json(
            {
                "sound": True,
                "name": read.name,
                "version": read.version,
                "digest": read.digest,
                "author": author.standing,
                "signer": author.signer,
                "reason": author.reason or None,
            }
        )
    else:
        say(f"{read.name}@{read.version} {read.digest}\nsound; {author.told}")
    return DONE if good else FAILED


@app.command(help_epilogue=app.help_epilogue)
def export(
    card: str,
    /,
    *,
    out: Path,
    dtype: Annotated[Literal["float32", "float16", "bfloat16", "int8"] | None, UNSAID] = None,
    force: Annotated[bool, FLAG] = False,
    at: Place = HERE,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Write a card for others: as it is, as a PEFT folder, or as plain safetensors.

    A skill of this fleet is signed on the way: NAME.lora.arrow.sig lies beside its file.
    With another dtype it is another card, which names this one among its parents; somebody
    else's signature does not go with it.

    Parameters
    ----------
    card
        File, digest or skill
    out
        NAME.lora.arrow, NAME.safetensors, or any other name for a PEFT folder
    dtype
        How its numbers are stored. Default: as they are; int8 in a PEFT folder
        or safetensors becomes float32
    force
        Replace the file where it exists
    json
        Write JSON
    """
    from services.command.cardfiles import held
    from services.command.exporting import export_card

    written = export_card(run(held(card, at)), out, at.folder / "keys", dtype=dtype, force=force)
    if json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            say(str(path))
    return DONE


app.command(import_, name="import", help_epilogue=app.help_epilogue)
app.command(instruments.extract, name="extract", help_epilogue=app.help_epilogue)
app.command(instruments.probe, name="probe", help_epilogue=app.help_epilogue)
