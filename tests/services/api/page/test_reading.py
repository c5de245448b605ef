"""The page can be read: on a phone, in the dark, without sight or mouse, without motion."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.services.api.page import canned
from tests.services.api.page.standin import PASSAGES, QUERY, StandIn
from tests.services.api.page.window import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
PALE = (HERE / "pale.js").read_text()
FLAWS = (HERE / "flaws.js").read_text()


async def full(window: Window, standin: StandIn, **how: object) -> Page:
    """The page with all that it can show at once."""
    standin.status = canned.learning()
    standin.status["skills"] = canned.after()["skills"]
    standin.status["processes"][6] |= {"state": "gone", "age_s": 9.2}
    standin.status["requests"]["minute"]["failed"] = 2
    standin.happen("skill.installed", {"card": {"name": "banking", "version": 1}}, sequence=1200)
    standin.happen("skill.rejected", {"name": "other", "reason": "broken"}, sequence=1201)
    page = await window.open(**how)
    await page.get_by_label("Query").fill(QUERY)
    await page.get_by_label("Passages, one a line").fill("\n".join(PASSAGES))
    await page.get_by_role("button", name="Rank").click()
    await page.get_by_role("button", name=f"Right: {PASSAGES[2]}").click()
    await page.get_by_role("button", name=f"Wrong: {PASSAGES[1]}").click()
    await expect(page.locator("#news li")).to_have_count(2)
    return page


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1280, "light")])
async def test_it_fits_and_stands_out_from_its_ground(
    window: Window, standin: StandIn, width: int, scheme: str
) -> None:
    page = await full(window, standin, width=width, scheme=scheme, motion="reduce")

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate(PALE) == []


async def test_long_words_do_not_widen_a_narrow_page(window: Window, standin: StandIn) -> None:
    standin.status = canned.after()
    long = "w" * 64
    for skill in standin.status["skills"]:
        skill |= {"name": long, "description": long * 4, "workers": [long], "peer": None}
    for domain in standin.status["loop"]["domains"]:
        domain["domain"] = long
        domain["verdicts"] = [one | {"reason": long * 3} for one in domain["verdicts"]]
    standin.status["peers"][0] |= {"peer": long, "endpoint": long}
    standin.status["processes"][0] |= {"service": long, "instance": long}
    standin.status["model"]["id"] = long * 2
    standin.happen("skill.rejected", {"name": long, "reason": long * 3}, sequence=1280)
    page = await window.open(width=360)
    await page.get_by_label("Query").fill(long)
    await page.get_by_label("Passages, one a line").fill(long * 3)
    await page.get_by_role("button", name="Rank").click()
    await expect(page.locator(".sides")).to_be_visible()

    assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_everything_has_a_name_and_a_place(window: Window, standin: StandIn) -> None:
    page = await full(window, standin)

    assert await page.evaluate(FLAWS) == []
    assert await page.locator("html").get_attribute("lang") == "en"


async def test_the_focus_is_seen_wherever_it_is(window: Window, standin: StandIn) -> None:
    page = await full(window, standin)
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    await page.locator(".brand").click()
    reached = []
    for _ in range(40):
        await page.keyboard.press("Tab")
        name, outline = await page.evaluate(
            """() => {
                const at = document.activeElement;
                const { outlineStyle, outlineWidth } = getComputedStyle(at);
                return [at.id || at.className || at.tagName, outlineStyle + outlineWidth];
            }"""
        )
        if name == "BODY":
            break
        assert outline == "solid3px", name
        reached.append(name)

    assert {"query", "passages", "model", "rank", "example", "mark", "domain", "give"} <= {*reached}


async def test_nothing_moves_for_who_wants_no_motion(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    moving = """() => [...document.querySelectorAll("*")].filter((element) => {
        const style = getComputedStyle(element);
        return parseFloat(style.transitionDuration) > 0 || style.animationName !== "none";
    }).length"""

    page = await window.open()
    assert await page.evaluate(moving) > 0
    page = await window.open(motion="reduce")
    assert await page.evaluate(moving) == 0


async def test_only_what_matters_is_read_out(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    page = await window.open()
    said = page.locator("#said")

    standin.happen("dissonance.detected", {"domain": "banking"}, sequence=1205)
    await expect(page.locator("#news")).to_contain_text("banking clash")
    await expect(said).to_be_empty()
    standin.happen("skill.installed", {"card": {"name": "banking", "version": 2}}, sequence=1206)
    await expect(said).to_have_text("banking@2 is in service")
    assert await page.locator("[aria-live], [role=status], [role=alert]").count() == 3
