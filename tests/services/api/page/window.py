"""A browser's window on the page, with an ear for everything that goes wrong in it."""

from typing import Any

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.services.api.page.standin import StandIn

__all__ = ["Window"]

expect.set_options(timeout=10_000)

LISTEN = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""


class Window:
    """Opened by `open`; `problems` are errors on the console, exceptions and breaches of the CSP."""

    def __init__(self, browser: Browser, standin: StandIn) -> None:
        self._browser = browser
        self._context: BrowserContext | None = None
        self._standin = standin
        self.problems: list[str] = []
        self.refusals_expected = False
        """Chromium itself reports each answer of 400 and above, and each failed connection."""
        self.page: Page

    async def open(
        self, *, width: int = 1280, scheme: Any = "light", motion: Any = "no-preference"
    ) -> Page:
        """The page, loaded, and its first answer shown."""
        await self.close()
        self._context = await self._browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion
        )
        await self._context.add_init_script(LISTEN)
        self.page = await self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        await self.page.goto(self._standin.url)
        await expect(self.page.locator("#link")).not_to_have_attribute("data-state", "connecting")
        return self.page

    async def close(self) -> None:
        """Forget the profile."""
        if self._context is not None:
            await self._context.close()
            self._context = None

    def at(self, selector: str) -> Locator:
        """An element of the page."""
        return self.page.locator(selector)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if self.refusals_expected and message.text.startswith("Failed to load resource"):
            return
        self.problems.append(message.text)
