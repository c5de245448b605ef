"""The page listens to events as they come, in pieces, and after the server was away."""

import asyncio
import json

import pytest
from playwright.async_api import expect

from schemas import catalogue
from tests.services.api.page import canned
from tests.services.api.page.standin import StandIn
from tests.services.api.page.window import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def listening(standin: StandIn, count: int = 1) -> None:
    """Wait until so many streams are open."""
    async with asyncio.timeout(10):
        while standin.listening != count:
            await asyncio.sleep(0.02)


async def test_it_listens_to_types_that_there_are(window: Window) -> None:
    page = await window.open()
    types = await page.evaluate("() => import('/page/news.js').then((news) => news.TYPES)")

    assert len(types) == len({*types}) == 15
    assert {*types} <= catalogue().keys()


async def test_an_event_may_come_in_pieces_with_any_line_ends(
    window: Window, standin: StandIn
) -> None:
    page = await window.open()
    await listening(standin)
    event = {"type": "peer.joined", "source": "/x", "id": "1", "time": canned.at(0)}
    text = json.dumps(event | {"data": {"peer": "Zürich"}}, ensure_ascii=False)
    raw = f": a comment\r\nevent: peer.joined\r\ndata: {text}\r\n\r\n".encode()
    middle = raw.index("ü".encode()) + 1

    for piece in (raw[:15], raw[15:middle], raw[middle:-3], raw[-3:-1], raw[-1:]):
        standin.tell(piece)
        await asyncio.sleep(0)

    await expect(page.locator("#news")).to_contain_text("Zürich joined")


async def test_what_is_no_event_of_the_fleet_is_passed_over(
    window: Window, standin: StandIn
) -> None:
    page = await window.open()
    await listening(standin)

    standin.tell(b"event: truncated\ndata: {}\n\n")
    standin.tell(b"data: not json\n\nevent: peer.left\ndata: null\n\n")
    standin.happen("from.the.future", {"anything": 1})
    standin.happen("peer.left", {"peer": "paris"})

    await expect(page.locator("#news li")).to_have_count(1)
    await expect(page.locator("#news")).to_contain_text("paris left")


async def test_a_broken_stream_goes_on_where_it_broke(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    page = await window.open()
    await listening(standin)
    standin.happen("dissonance.detected", {"domain": "banking"}, sequence=1210)
    await expect(page.locator("#news")).to_contain_text("banking clash")

    standin.tell(None)
    await listening(standin, 0)
    standin.happen("learning.batch_queued", {"domain": "banking", "events": []}, sequence=1211)
    await expect(page.locator("#news")).to_contain_text("a batch of 0 is full")

    assert standin.resumed == ["904", "1210"], "first the last 300 numbers of the journal"
    await expect(page.locator("#news li")).to_have_count(2)


async def test_a_server_that_was_away_is_found_again(window: Window, standin: StandIn) -> None:
    window.refusals_expected = True
    standin.status = canned.learning()
    page = await window.open()
    await listening(standin)

    await standin.stop()
    await expect(page.locator("#link")).to_have_attribute("data-state", "away")
    await expect(page.locator("h1")).to_have_text("The server does not answer.")
    await expect(page.locator("#aside")).to_contain_text("Below: how it stood at")
    await expect(page.locator(".domain")).to_have_count(2)

    standin.status = canned.after()
    await standin.start()
    await expect(page.locator("#link")).to_have_attribute("data-state", "live")
    await expect(page.locator("h1")).to_contain_text("At rest.")
    await listening(standin)
