"""Teachers by name."""

import pytest

from services.distiller.errors import UnknownTeacherError
from services.distiller.teacher import Contribution, Material, NoTeacher, teacher_of
from services.runtime.settings import DistillerSettings


async def test_none_adds_nothing() -> None:
    teacher = teacher_of(DistillerSettings())

    assert isinstance(teacher, NoTeacher)
    assert await teacher.teach(Material("birds", (), ())) == Contribution()


def test_a_teacher_that_is_not_built_is_named_with_those_that_are() -> None:
    settings = DistillerSettings(teacher="openai")  # type: ignore[arg-type]

    with pytest.raises(UnknownTeacherError, match="'openai', which is not built yet; known: none"):
        teacher_of(settings)
