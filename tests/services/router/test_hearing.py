"""A skill that the journal tells of is not unknown, however late the news comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from schemas import SkillInstalled, SkillRetired
from services.router import hearing
from services.router.hearing import Hearing

HEADS = {SkillInstalled.type: 7, SkillRetired.type: 4, "feedback.given": 90}


async def heads() -> Mapping[str, int]:
    return HEADS


async def test_it_waits_for_the_last_news_of_skills_and_no_other() -> None:
    hears = Hearing(heads, (SkillInstalled, SkillRetired))
    hears.heard(4)
    waiting = asyncio.create_task(hears.catch_up())
    for sequence in (5, 6):
        hears.heard(sequence)
        await asyncio.sleep(0)
        assert not waiting.done()
    hears.heard(7)
    assert await waiting
    assert await hears.catch_up() is False, "nothing came since: what is unknown is unknown"


async def test_news_that_do_not_come_hold_nobody_up_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hearing, "CATCH_UP", 0.01)
    assert await Hearing(heads, (SkillInstalled,)).catch_up()


async def test_news_that_come_while_the_journal_is_asked_are_news() -> None:
    async def late() -> Mapping[str, int]:
        hears.heard(7)
        return HEADS

    hears = Hearing(late, (SkillInstalled,))
    assert await hears.catch_up()
    assert await hears.catch_up() is False
