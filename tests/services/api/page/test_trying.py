"""“Try it”: the two orders side by side, feedback on them, and what becomes of it."""

import pytest
from playwright.async_api import Page, expect

from tests.services.api.page import canned
from tests.services.api.page.standin import PASSAGES, QUERY, StandIn
from tests.services.api.page.window import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ranked(window: Window) -> Page:
    """The page with the passages ranked."""
    page = await window.open()
    await page.get_by_label("Query").fill(QUERY)
    await page.get_by_label("Passages, one a line").fill("\n".join(PASSAGES))
    await page.get_by_role("button", name="Rank").click()
    await expect(page.locator(".sides")).to_be_visible()
    return page


async def order(page: Page, side: str) -> list[str]:
    """The passages of one side as they stand."""
    return await page.locator(f".{side} .passage").all_inner_texts()


async def test_both_orders_are_shown_and_what_moved(window: Window, standin: StandIn) -> None:
    standin.status = canned.after()
    page = await ranked(window)

    assert await order(page, "base") == list(PASSAGES)
    assert await order(page, "bent") == [PASSAGES[2], PASSAGES[1], PASSAGES[0], PASSAGES[3]]
    first, second, third, _ = await page.locator(".bent li").all()
    await expect(first).to_contain_text("up 2, it was number 3")
    await expect(second).to_contain_text("not moved")
    await expect(third).to_contain_text("down 2, it was number 1")
    await expect(page.locator(".bent .how")).to_have_text("made by banking@2 (0.71)")
    await expect(page.locator(".between path")).to_have_count(4)
    await expect(page.locator(".between path.up")).to_have_count(1)


async def test_only_the_query_is_bent(window: Window, standin: StandIn) -> None:
    standin.status = canned.after()
    await ranked(window)

    asked = {(one["model"], one["role"]): one["input"] for one in standin.asked}
    assert asked == {
        ("base", "document"): list(PASSAGES),
        ("base", "query"): [QUERY],
        ("auto", "query"): [QUERY],
    }


async def test_without_skills_it_says_why_none_was_applied(window: Window) -> None:
    page = await ranked(window)

    await expect(page.locator(".bent .how")).to_have_text(
        "no skill applied: nothing has been learned yet; the order is the same"
    )
    assert await order(page, "bent") == list(PASSAGES)


async def test_a_skill_can_be_named(window: Window, standin: StandIn) -> None:
    standin.status = canned.after()
    page = await window.open()
    choice = page.get_by_role("combobox", name="Skills")
    await expect(choice.locator("option")).to_have_text(
        ["as the router chooses", "banking", "python-stdlib", "london/travel"]
    )
    await choice.select_option("london/travel")
    await page.get_by_role("button", name="Use an example").click()
    await expect(page.get_by_label("Query")).to_have_value(QUERY)
    await page.get_by_role("button", name="Rank").click()
    await expect(page.locator(".sides")).to_be_visible()

    assert "london/travel" in {one["model"] for one in standin.asked}


async def test_from_the_skip_link_to_feedback_by_keyboard_alone(
    window: Window, standin: StandIn
) -> None:
    standin.status = canned.learning()
    page = await window.open()
    press, write = page.keyboard.press, page.keyboard.type

    await press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await press("Enter")
    await press("Tab")
    await expect(page.get_by_label("Query")).to_be_focused()
    await write(QUERY)
    await press("Tab")
    await write("\n".join(PASSAGES))
    await press("Tab")
    await press("Tab")
    await expect(page.get_by_role("button", name="Rank")).to_be_focused()
    await press("Enter")
    told = page.locator("#ask-told")
    await expect(told).to_have_text("Ranked 4. First with skills: card arrival.")
    await press("Tab")
    await press("Tab")
    right = page.get_by_role("button", name=f"Right: {PASSAGES[2]}")
    await expect(right).to_be_focused()
    await press("Space")
    await expect(right).to_have_attribute("aria-pressed", "true")
    for _ in range(3):
        await press("Tab")
    await press("Enter")
    wrong = page.get_by_role("button", name=f"Wrong: {PASSAGES[1]}")
    await expect(wrong).to_be_focused()
    await expect(wrong).to_have_attribute("aria-pressed", "true")
    for _ in range(5):
        await press("Tab")
    await expect(page.get_by_label("Domain")).to_be_focused()
    await write("banking")
    await press("Enter")

    answer = page.locator("#give-told")
    await expect(answer).to_contain_text("Kept, as feedback-1")
    await expect(page.locator("[aria-pressed=true]")).to_have_count(0)
    assert standin.given == [
        {
            "query": QUERY,
            "relevant": [PASSAGES[2]],
            "irrelevant": [PASSAGES[1]],
            "served": [canned.digest("a")],
            "domain": "banking",
        }
    ]
    standin.happen("feedback.judged", {"feedback_id": "another", "domain": "banking"}, sequence=1)
    judged = {"feedback_id": "feedback-1", "domain": "banking", "reason": "contradiction"}
    standin.happen("feedback.judged", judged, sequence=2)
    await expect(answer).to_contain_text("Judged, in banking")
    standin.happen("dissonance.detected", judged, sequence=3)
    await expect(answer).to_have_text(
        "A clash in banking (contradiction): it joins the open batch."
    )


async def test_a_judgement_that_comes_before_the_answer_is_told(
    window: Window, standin: StandIn
) -> None:
    page = await ranked(window)
    judged = {"feedback_id": "feedback-1", "domain": "banking", "reason": "novel"}
    standin.happen("dissonance.detected", judged, sequence=1)
    await expect(page.locator("#news")).to_contain_text("banking clash")
    await page.get_by_role("button", name=f"Right: {PASSAGES[2]}").click()
    await page.get_by_role("button", name="Give feedback").click()

    await expect(page.locator("#give-told")).to_contain_text("A clash in banking (novel)")


async def test_marks_exclude_each_other_and_none_gives_nothing(
    window: Window, standin: StandIn
) -> None:
    page = await ranked(window)
    right = page.get_by_role("button", name=f"Right: {PASSAGES[0]}")
    wrong = page.get_by_role("button", name=f"Wrong: {PASSAGES[0]}")

    await right.click()
    await wrong.click()
    await expect(right).to_have_attribute("aria-pressed", "false")
    await expect(page.locator("#give-told")).to_have_text("0 right, 1 wrong.")
    await wrong.click()
    await page.get_by_role("button", name="Give feedback").click()
    await expect(page.locator("#give-told")).to_have_text("Mark a passage as right or wrong first.")
    assert standin.given == []


async def test_a_key_that_may_only_read_is_told_so_beside_the_button(
    window: Window, standin: StandIn
) -> None:
    window.refusals_expected = True
    standin.may_give = False
    page = await ranked(window)
    await page.get_by_role("button", name=f"Right: {PASSAGES[2]}").click()
    await page.get_by_role("button", name="Give feedback").click()

    await expect(page.locator("#give-told")).to_have_text(
        "this key may read, but not give feedback"
    )
    await expect(page.locator(".sides")).to_be_visible()


async def test_what_the_fleet_says_is_text_and_never_markup(
    window: Window, standin: StandIn
) -> None:
    evil = '<img src=x onerror="console.error(1)"><script>console.error(2)</script>'
    standin.status = canned.after()
    standin.status["model"]["id"] = evil
    standin.status["processes"][0]["service"] = evil
    standin.status["peers"][0] |= {"peer": evil, "endpoint": evil}
    for skill in standin.status["skills"]:
        skill |= {"description": evil, "name": evil, "workers": [evil], "applies_to": [evil]}
    for domain in standin.status["loop"]["domains"]:
        domain["domain"] = evil
        for verdict in domain["verdicts"]:
            verdict |= {"reason": evil, "depth": evil, "published": False}
    standin.happen("skill.rejected", {"name": evil, "reason": evil}, sequence=1280)
    page = await window.open()
    await page.get_by_label("Query").fill(evil)
    await page.get_by_label("Passages, one a line").fill(f"{evil}\nsomething else")
    await page.get_by_role("button", name="Rank").click()
    await expect(page.locator(".bent .passage").filter(has_text="onerror")).to_be_visible()

    await expect(page.locator(".skill .text").first).to_have_text(evil)
    await expect(page.locator(".news .bad")).to_contain_text(evil)
    assert await page.locator("img, body script").count() == 0
