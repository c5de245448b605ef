"""How long requests wait for peers' cards, and that nobody can make them wait again and again."""

import asyncio
from typing import Any

import pytest

from schemas import SkillWanted
from services.router.peers import LONGEST_PAUSE, PAUSE, STRIKES, Peers
from tests.services.router.test_names import card

NEVER = 0.02


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Wishes:
    """What was wished for, in order."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    async def __call__(self, data: SkillWanted) -> None:
        self.digests.append(data.digest)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wishes() -> Wishes:
    return Wishes()


def one(number: int) -> Any:
    return card("law", number, digest=f"{number:064x}")


async def until_waiting(peers: Peers, digest: str, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while digest not in peers._wanted or peers._wanted[digest].waiting < count:
            await asyncio.sleep(0)


async def test_who_waits_longer_than_the_first_still_hears_of_it(wishes: Wishes) -> None:
    peers = Peers(wishes, 10.0)
    patient = asyncio.create_task(peers.fetch(one(1), "london", named=False))
    await until_waiting(peers, one(1).digest)
    assert not await peers.fetch(one(1), "london", named=True, patience=NEVER)
    peers.installed(one(1).digest)
    assert await patient
    assert wishes.digests == [one(1).digest], "one wish per card"
    assert not peers.paused(one(1).digest, "london"), "it came after all"


async def test_a_request_that_is_given_up_leaves_nothing_behind(wishes: Wishes) -> None:
    peers = Peers(wishes, 10.0)
    waiting = asyncio.create_task(peers.fetch(one(1), "london", named=True))
    await until_waiting(peers, one(1).digest)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    again = asyncio.create_task(peers.fetch(one(1), "london", named=True))
    await until_waiting(peers, one(1).digest)
    peers.installed(one(1).digest)
    assert await again
    assert len(wishes.digests) == 2, "wished for anew"


async def test_unavailable_ends_the_wait_of_all(wishes: Wishes) -> None:
    peers = Peers(wishes, 60.0)
    waiting = [
        asyncio.create_task(peers.fetch(one(1), "london", named=named)) for named in (True, False)
    ]
    await until_waiting(peers, one(1).digest, 2)
    peers.unavailable(one(1).digest)
    assert await asyncio.gather(*waiting) == [False, False]


async def test_a_card_that_fails_is_waited_for_ever_more_rarely(
    wishes: Wishes, clock: Clock
) -> None:
    peers = Peers(wishes, NEVER, clock)
    pauses = []
    for _ in range(10):
        began = clock.now
        assert not await peers.fetch(one(1), "london", named=False)
        assert not await peers.fetch(one(1), "london", named=False), "not waited for"
        while peers.paused(one(1).digest, "rome"):
            clock.now += PAUSE / 2
        pauses.append(clock.now - began)
    assert len(wishes.digests) == 10
    assert pauses[:3] == [PAUSE, 2 * PAUSE, 4 * PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


async def test_a_name_is_waited_for_again_at_once_and_lengthens_no_pause(
    wishes: Wishes, clock: Clock
) -> None:
    peers = Peers(wishes, NEVER, clock)
    for _ in range(5):
        assert not await peers.fetch(one(1), "london", named=True)
    assert len(wishes.digests) == 5
    assert peers.paused(one(1).digest, "london")
    clock.now += PAUSE
    assert not peers.paused(one(1).digest, "london")


async def test_a_peer_whose_cards_do_not_come_is_waited_for_no_more(
    wishes: Wishes, clock: Clock
) -> None:
    peers = Peers(wishes, NEVER, clock)
    for number in range(1, 50):
        await peers.fetch(one(number), "evil", named=False)
    assert len(wishes.digests) == STRIKES
    assert not peers.paused(one(99).digest, "good"), "others are"
    assert not await peers.fetch(one(98), "evil", named=True)
    assert wishes.digests[-1] == one(98).digest, "its cards can be named"

    clock.now += PAUSE
    waiting = asyncio.create_task(peers.fetch(one(99), "evil", named=False))
    await asyncio.sleep(0)
    peers.installed(one(99).digest)
    assert await waiting
    assert not peers.paused(one(100).digest, "evil"), "one that came makes up for it"


async def test_what_is_remembered_of_failures_is_bounded(
    wishes: Wishes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.router.peers.REMEMBERED", 10)
    peers = Peers(wishes, 0.0, clock)
    for number in range(1, 50):
        await peers.fetch(one(number), f"peer{number}", named=False)
    assert len(peers._failed) == 10
