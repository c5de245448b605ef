"""A real browser, without a window: Debian's Chromium, or the one that CHROMIUM names."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from tests.services.api.page.standin import StandIn, serving
from tests.services.api.page.window import BREACHES, Window


def chromium() -> str | None:
    """Where it is."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab() -> AsyncIterator[Page]:
    """One for all tests of a process: a fresh one each would take longer than most of them."""
    path = chromium()
    if path is None:
        reason = "the page is tested in Chromium: apt-get install chromium, or name one by CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, but there is no browser; {reason}")
        pytest.skip(reason)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=sandbox)
        page = await started.new_page()
        await page.add_init_script(BREACHES)
        yield page
        await started.close()


@pytest_asyncio.fixture(loop_scope="session")
async def standin() -> AsyncIterator[StandIn]:
    """A server with an empty fleet behind it."""
    async with serving(StandIn()) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="session")
async def window(tab: Page, standin: StandIn) -> AsyncIterator[Window]:
    """A window on the page; at its end nothing may have gone wrong in it that was not announced."""
    opened = Window(tab, standin)
    yield opened
    await opened.close()
    assert opened.problems == []
