"""Teachers by name."""

from pathlib import Path
from typing import get_args

import pytest

from services.distiller.errors import UnknownTeacherError
from services.distiller.teacher import (
    Asked,
    Contribution,
    Kind,
    Material,
    NoTeacher,
    teacher_of,
)
from services.runtime.settings import DistillerSettings, Settings


async def test_none_adds_nothing(tmp_path: Path) -> None:
    teacher = teacher_of(Settings(), tmp_path)

    assert isinstance(teacher, NoTeacher)
    assert await teacher.teach(Material("birds", (), ())) == Contribution()


def test_a_teacher_that_is_not_built_is_named_with_those_that_are(tmp_path: Path) -> None:
    settings = Settings(distiller=DistillerSettings(teacher="oracle"))  # type: ignore[arg-type]

    with pytest.raises(UnknownTeacherError, match="'oracle', which is not built yet; known: none"):
        teacher_of(settings, tmp_path)


async def test_the_mock_says_the_same_of_the_same_and_every_kind(tmp_path: Path) -> None:
    asked = Asked("where do herons stand", ("in reeds",), ("in trees",), ("herons stand still",))
    novel = Asked("what is a bird", novel=True)
    material = Material("birds", (asked, novel), ("in reeds", "in trees"))
    teacher = teacher_of(Settings(distiller=DistillerSettings(teacher="mock")), tmp_path)

    one, two = await teacher.teach(material), await teacher.teach(material)

    assert one.pairs == two.pairs
    assert {pair.kind for pair in one.pairs} == set(get_args(Kind))
    assert all(0 <= pair.value <= 1 for pair in one.pairs)
    assert {pair.origin for pair in one.pairs} == {asked.text, novel.text, None}
    texts = {text for pair in one.pairs for text in (pair.query, pair.passage)}
    assert texts <= set(one.vectors)
    assert all((one.vectors[text] == two.vectors[text]).all() for text in texts)
