"""Vectors asked of the fleet: what fails together ends together."""

import asyncio

import pytest

from services.dissonance_monitor.embedding import together
from services.errors import EncodeFailedError


async def test_where_one_request_fails_the_others_are_not_waited_for() -> None:
    ended = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def refused() -> None:
        raise EncodeFailedError("overloaded", "too much")

    with pytest.raises(EncodeFailedError, match="too much"):
        await together(never(), refused())
    assert ended.is_set()


async def test_answers_come_in_the_order_of_the_questions() -> None:
    async def slow(answer: int) -> int:
        await asyncio.sleep(0.01 / answer)
        return answer

    assert await together(slow(1), slow(2), slow(3)) == [1, 2, 3]
