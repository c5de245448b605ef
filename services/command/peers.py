"""`consonance peers`: which fleets this one meets, and what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from services.command.errors import DONE, Failed
from services.command.kit import FLAG, group, note, print_json, run, show, table
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from schemas import SkillDiscovered

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance peers
        every skill on offer; it is used by meaning, or named as PEER/NAME

    consonance peers --json

Whose skills are accepted: consonance trust. Certificates for other machines:
consonance authority.
"""

app = group("peers", "Which peers there are, and what they offer.", _EXAMPLES)


@app.default
def _peers(*, at: Place = HERE, json: Annotated[bool, FLAG] = False) -> int:
    """List what peers offer now.

    Parameters
    ----------
    json
        Write JSON
    """
    found = run(_offers(at))
    if json:
        offers = [
            {
                "peer": one.peer,
                "name": one.card.name,
                "version": one.card.version,
                "digest": one.card.digest,
                "signer": one.card.signer,
                "description": one.card.description,
                "metrics": one.card.metrics,
            }
            for one in found
        ]
        print_json({"offers": offers})
    elif found:
        rows = [
            (
                one.peer,
                f"{one.card.name}@{one.card.version}",
                one.card.digest[7:19],
                one.card.description,
            )
            for one in found
        ]
        show(table("peer", "skill", "digest", "description", rows=rows))
    else:
        note("no peer offers anything now")
    return DONE


async def _offers(at: Place) -> list[SkillDiscovered]:
    from services.errors import NotFederatingError
    from services.runtime.client import FleetClient

    async with connected(at) as bus:
        try:
            found = await FleetClient(bus).sync_remote_skills()
        except NotFederatingError as error:
            raise Failed(str(error)) from error
    return sorted(found, key=lambda one: (one.peer, one.card.name, -one.card.version))
