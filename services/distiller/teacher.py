"""Teachers: who adds to the feedback of a domain. One interface, a registry by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.distiller.errors import UnknownTeacherError
from services.runtime.settings import DistillerSettings

__all__ = ["TEACHERS", "Contribution", "Material", "NoTeacher", "Pair", "Teacher", "teacher_of"]


@dataclass(frozen=True)
class Material:
    """What a teacher is shown of a domain."""

    domain: str
    queries: tuple[str, ...]
    """Queries of the batch that people gave feedback on."""
    passages: tuple[str, ...]
    """All passages of the dataset in the making."""


@dataclass(frozen=True)
class Pair:
    """One query with the relevance of one passage to it, by a teacher."""

    query: str
    passage: str
    value: float
    """1 relevant, 0 irrelevant, between: how relevant."""
    origin: str
    """The query of the material that this comes from: the pair lies in that query's fold."""


@dataclass(frozen=True)
class Contribution:
    """What a teacher adds."""

    pairs: tuple[Pair, ...] = ()
    reason: str | None = None
    """Why it added nothing, where it was asked to."""


class Teacher(Protocol):
    """Adds to the feedback of a domain; whatever it fails at is a reason, not an error."""

    @property
    def name(self) -> str:
        """Its name in the settings, and the source of its labels."""
        ...

    async def teach(self, material: Material) -> Contribution:
        """Look at the material; pairs may name new queries, and known passages only."""
        ...


class NoTeacher:
    """Feedback alone."""

    name = "none"

    async def teach(self, material: Material) -> Contribution:
        """Nothing, and no reason: nobody was asked."""
        return Contribution()


TEACHERS: dict[str, Callable[[DistillerSettings], Teacher]] = {
    "none": lambda settings: NoTeacher(),
}
"""How each teacher is made."""


def teacher_of(settings: DistillerSettings) -> Teacher:
    """The teacher that the settings name. Raises `UnknownTeacherError`."""
    name: str = settings.teacher
    make = TEACHERS.get(name)
    if make is None:
        raise UnknownTeacherError(
            f"distiller.teacher is {name!r}, which is not built yet; known: {', '.join(TEACHERS)}"
        )
    return make(settings)
