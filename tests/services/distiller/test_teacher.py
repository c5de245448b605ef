"""Teachers by name."""

from pathlib import Path

import pytest

from services.distiller.errors import UnknownTeacherError
from services.distiller.teacher import Contribution, Material, NoTeacher, teacher_of
from services.runtime.settings import DistillerSettings, Settings


async def test_none_adds_nothing(tmp_path: Path) -> None:
    teacher = teacher_of(Settings(), tmp_path)

    assert isinstance(teacher, NoTeacher)
    assert await teacher.teach(Material("birds", (), ())) == Contribution()


def test_a_teacher_that_is_not_built_is_named_with_those_that_are(tmp_path: Path) -> None:
    settings = Settings(distiller=DistillerSettings(teacher="oracle"))  # type: ignore[arg-type]

    with pytest.raises(UnknownTeacherError, match="'oracle', which is not built yet; known: none"):
        teacher_of(settings, tmp_path)
