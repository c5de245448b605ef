"""A browser's window on the page, with an ear for everything that goes wrong in it."""

from typing import Any

from playwright.async_api import ConsoleMessage, Error, Page, expect

from tests.services.api.page.standin import StandIn

__all__ = ["BREACHES", "Window"]

expect.set_options(timeout=10_000)

BREACHES = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
"""Breaches of the content security policy, told on the console."""


class Window:
    """Opened by `open`; `problems` are errors, exceptions and breaches of the CSP."""

    def __init__(self, tab: Page, standin: StandIn) -> None:
        self.page = tab
        self._standin = standin
        self.problems: list[str] = []
        self.refusals_expected = False
        """Chromium itself reports each answer of 400 and above, and each failed connection."""

    async def open(
        self, *, width: int = 1280, scheme: Any = "light", motion: Any = "no-preference"
    ) -> Page:
        """The page, loaded, and its first answer shown."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", self._failed)
        await self.page.set_viewport_size({"width": width, "height": 900})
        await self.page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        await self.page.goto(self._standin.url)
        await expect(self.page.locator("#link")).not_to_have_attribute("data-state", "connecting")
        return self.page

    async def close(self) -> None:
        """Leave the page; its server may go."""
        self.page.remove_listener("console", self._heard)
        self.page.remove_listener("pageerror", self._failed)
        await self.page.goto("about:blank")

    def _failed(self, error: Error) -> None:
        self.problems.append(str(error))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if self.refusals_expected and message.text.startswith("Failed to load resource"):
            return
        self.problems.append(message.text)
