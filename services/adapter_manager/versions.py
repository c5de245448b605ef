"""The rules of versions: what may be installed, what serves, what has to go; pure functions.

Every author numbers their own versions: the rules hold among the cards of one name and one author.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

__all__ = ["SERVING", "State", "Version", "ranked", "refusal", "successor", "surplus"]

State = Literal["installed", "kept", "pending", "retired", "rejected"]

SERVING: Final = ("installed", "kept")
"""States in which requests may use a card."""


class Version(NamedTuple):
    """One card among those of its name and author."""

    digest: str
    version: int
    state: State


def refusal(versions: Iterable[Version], digest: str, version: int, keep: int) -> str | None:
    """Why this card may not join the `versions` of its author; None where it may.

    What was retired stays retired, a version number means one digest for ever, and one that is
    older than all that are kept comes too late.
    """
    serving = []
    for other in versions:
        if other.digest == digest:
            if other.state == "retired":
                return "it was retired, and what was retired stays retired"
            continue
        if other.state in (*SERVING, "retired") and other.version == version:
            return f"version {version} is another card already: {other.digest}"
        if other.state in SERVING:
            serving.append(other.version)
    if len(serving) >= keep and version < min(sorted(serving, reverse=True)[:keep]):
        return f"it is older than the last {keep} versions, which are kept"
    return None


def ranked(versions: Iterable[Version]) -> dict[str, State]:
    """The state that each serving card should have: the newest is installed, the others kept."""
    serving = _newest_first(versions)
    return {
        other.digest: "installed" if place == 0 else "kept" for place, other in enumerate(serving)
    }


def surplus(versions: Iterable[Version], keep: int) -> tuple[Version, ...]:
    """The serving cards beyond the last `keep`."""
    return tuple(_newest_first(versions)[keep:])


def successor(versions: Iterable[Version], digest: str) -> str | None:
    """The digest of what serves once `digest` does not: the newest of the others."""
    others = [other for other in _newest_first(versions) if other.digest != digest]
    return others[0].digest if others else None


def _newest_first(versions: Iterable[Version]) -> list[Version]:
    serving = [other for other in versions if other.state in SERVING]
    return sorted(serving, key=lambda other: (-other.version, other.digest))
