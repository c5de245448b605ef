"""Teachers: who adds to the feedback of a domain. One interface, a registry by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from services.distiller.errors import UnknownTeacherError
from services.runtime.settings import Settings

__all__ = [
    "TEACHERS",
    "Asked",
    "Contribution",
    "Kind",
    "Material",
    "NoTeacher",
    "Pair",
    "Teacher",
    "teacher_of",
]

Kind = Literal["paraphrase", "question", "answer", "hard_negative", "grade"]
"""What a pair is: another wording of a query, a new question to a passage, a passage written for a
novel prompt, a passage written to be mistaken for a relevant one, or a known passage graded."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A query of the domain with what people said of it."""

    text: str
    relevant: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    """Passages that nobody judged for it and the base model ranks first, nearest first."""
    novel: bool = False
    """No skill covers it."""
    fold: int | None = None
    """The fold that it is judged in. None: unknown, so that nobody else's pair may be made with it
    in sight."""


@dataclass(frozen=True)
class Material:
    """What a teacher is shown of a domain: only what it has not been asked about before."""

    domain: str
    queries: tuple[Asked, ...]
    passages: tuple[str, ...]
    """Passages that new questions may be asked to."""


@dataclass(frozen=True)
class Pair:
    """One query with the relevance of one passage to it, by a teacher."""

    query: str
    passage: str
    value: float
    """1 relevant, 0 irrelevant, between: how relevant."""
    kind: Kind
    origin: str | None = None
    """The query of the material that it derives from: the pair lies in that query's fold. Of a new
    question one of the queries that were shown as examples, all of one fold. None: it was made from
    a passage alone, and gets a fold of its own."""


@dataclass(frozen=True)
class Contribution:
    """What a teacher adds."""

    pairs: tuple[Pair, ...] = ()
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """By text: the teacher's own embeddings, all of one width. With them pairs are checked, and
    nearness in the teacher's eyes becomes soft labels."""
    reason: str | None = None
    """One sentence: why it added nothing, or less than it was asked for."""
    again: float | None = None
    """Seconds since the epoch: the same may be asked again from then on, and may give more. What
    is named again is what is `left`, or all of the material where nothing is."""
    left: frozenset[str] = frozenset()
    """Queries and passages of the material that were not asked about, or not to the end. They are
    named again with the domain's next order, in the same sequence; all others never."""
    space: str = ""
    """Names the model that made the vectors: those of another model are forgotten."""


class Teacher(Protocol):
    """Adds to the feedback of a domain; whatever it fails at is a reason, not an error."""

    @property
    def name(self) -> str:
        """Its name in the settings, and the source of its labels."""
        ...

    async def teach(self, material: Material) -> Contribution:
        """Look at the material. Asking the same again after a crash costs nothing twice."""
        ...

    async def forget(self, domain: str) -> None:
        """Erase what is kept of a domain; it is not taught to anybody meanwhile."""
        ...

    async def aclose(self) -> None:
        """Let connections and files go."""
        ...


class NoTeacher:
    """Feedback alone."""

    name = "none"

    async def teach(self, material: Material) -> Contribution:
        """Nothing, and no reason: nobody was asked."""
        return Contribution()

    async def forget(self, domain: str) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        """Nothing to let go."""


def _openai(settings: Settings, folder: Path) -> Teacher:
    from services.distiller.cloud import CloudDistiller  # half a second that only its users wait

    return CloudDistiller(settings.teacher, folder)


def _mock(settings: Settings, folder: Path) -> Teacher:
    from services.distiller.mock import MockTeacher  # it speaks the language of this module

    return MockTeacher()


TEACHERS: dict[str, Callable[[Settings, Path], Teacher]] = {
    "none": lambda settings, folder: NoTeacher(),
    "mock": _mock,
    "openai": _openai,
}
"""How each teacher is made from the settings and the distiller's own folder."""


def teacher_of(settings: Settings, folder: Path) -> Teacher:
    """The teacher that the settings name; it may keep files in `folder`.

    Raises `UnknownTeacherError`.
    """
    name: str = settings.distiller.teacher
    make = TEACHERS.get(name)
    if make is None:
        raise UnknownTeacherError(
            f"distiller.teacher is {name!r}, which is not built yet; known: {', '.join(TEACHERS)}"
        )
    return make(settings, folder)
