"""The page shows what the fleet is doing, in each of its states."""

import pytest
from playwright.async_api import expect

from tests.services.api.page import canned
from tests.services.api.page.standin import StandIn
from tests.services.api.page.window import Window

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_fleet_that_has_learned_nothing_says_what_to_do(window: Window) -> None:
    page = await window.open()

    await expect(page.locator("h1")).to_have_text("Up and listening. Nothing learned yet.")
    await expect(page).to_have_title("Up and listening. Nothing learned yet. · Consonance")
    await expect(page.locator(".notches .off")).to_have_count(16)
    await expect(page.locator(".notches .on")).to_have_count(0)
    await expect(page.locator("#domains")).to_contain_text("that opens a batch")
    await expect(page.locator("#skills")).to_contain_text("None yet")
    await expect(page.locator("#news")).to_contain_text("Nothing yet")
    await expect(page.locator(".process")).to_have_count(10)


async def test_a_domain_shows_its_batch_its_training_and_its_verdicts(
    window: Window, standin: StandIn
) -> None:
    standin.status = canned.learning()
    page = await window.open()
    banking = page.locator(".domain").filter(has=page.get_by_role("heading", name="banking"))

    await expect(page.locator("h1")).to_have_text("Learning banking: body, 40 % done.")
    await expect(banking.locator("header")).to_contain_text("37 % dissonance: 91 clashes in 248")
    await expect(banking.get_by_label("11 of 16 clashes in the open batch")).to_be_visible()
    await expect(banking.locator(".notches .on")).to_have_count(11)
    await expect(banking.locator(".notches .off")).to_have_count(5)
    await expect(banking.get_by_role("progressbar")).to_have_attribute("value", "0.400")
    await expect(banking.locator(".training")).to_contain_text("step 240 of 600 · loss 0.412")
    passed, refused = await banking.locator(".verdict").all()
    await expect(passed).to_contain_text("passed as @1")
    await expect(refused).to_contain_text("does not beat what is served now")
    await expect(page.locator(".peers")).to_contain_text("travel@3")


async def test_an_interval_lies_right_of_zero_only_where_all_of_it_is_gain(
    window: Window, standin: StandIn
) -> None:
    standin.status = canned.learning()
    page = await window.open()

    drawn = await page.locator(".domain .interval").evaluate_all(
        """drawings => drawings.map((drawing) => {
            const x = (name, end) => parseFloat(drawing.querySelector(name).getAttribute(end));
            return [x(".zero", "x1"), x(".range", "x1"), x("circle", "cx"), x(".range", "x2")];
        })"""
    )

    passed, refused = drawn
    assert passed[0] < passed[1] < passed[2] < passed[3]
    assert refused[1] < refused[0] < refused[2] < refused[3]
    assert passed[0] == refused[0], "one axis for all verdicts of a domain"


async def test_skills_tell_their_gain_their_lineage_and_their_makers(
    window: Window, standin: StandIn
) -> None:
    standin.status = canned.after()
    page = await window.open()
    banking, _, travel = await page.locator(".skill").all()

    await expect(page.locator("h1")).to_contain_text("3 skills in service, the newest banking@2")
    await expect(banking.get_by_role("heading")).to_have_text("banking@2")
    await expect(banking).to_contain_text("base model → @1 → @2")
    await expect(banking).to_contain_text("+0.021")
    await expect(banking).to_contain_text("encoder/1, encoder/2")
    await expect(travel.get_by_role("heading")).to_have_text("london/travel@3")
    await expect(travel).to_contain_text("the peer london, signed ed25519:")
    older = banking.locator(".versions li")
    await expect(older).to_be_hidden()
    await banking.get_by_text("1 other version").click()
    await expect(older).to_contain_text("kept")


async def test_requests_are_figures_and_a_drawing(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    page = await window.open()

    await expect(page.locator(".traffic")).to_contain_text("384")
    await expect(page.locator(".latency")).to_contain_text("12 ms")
    await expect(page.get_by_label("at most 38 in 5 seconds")).to_be_visible()
    await expect(page.get_by_label("the median is 12 ms now")).to_be_visible()


async def test_a_process_that_is_gone_is_named(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    standin.status["processes"][6] |= {"state": "gone", "age_s": 9.2}
    page = await window.open()

    await expect(page.locator("#aside")).to_have_text(
        "9 of 10 processes are ready: encoder/1 is gone."
    )
    await expect(page.locator(".process[data-state=gone]")).to_contain_text("silent for 9 s")


async def test_an_event_refreshes_at_once_and_takes_nothing_from_the_reader(
    window: Window, standin: StandIn
) -> None:
    standin.status = canned.after()
    page = await window.open()
    details = page.locator(".domain details summary").first
    await details.click()
    await expect(details).to_be_focused()

    standin.status["loop"]["domains"][0]["open"] = 3
    standin.happen("dissonance.detected", {"domain": "banking"}, sequence=1300)

    await expect(page.locator(".domain").first.locator(".notches .on")).to_have_count(3)
    await expect(page.locator(".domain details").first).to_have_attribute("open", "")
    await expect(details).to_be_focused()


async def test_what_happened_is_told_from_the_journal_on(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    card = {"name": "banking", "version": 1, "metrics": {"gain": 0.069}}
    standin.happen("skill.published", {"card": card}, sequence=1201)
    standin.happen("skill.installed", {"card": card}, sequence=1202)
    for sequence in (1203, 1204):
        standin.happen("dissonance.detected", {"domain": "banking"}, sequence=sequence)
    page = await window.open()

    lines = page.locator("#news li")
    await expect(lines).to_have_count(3)
    await expect(lines.nth(0)).to_contain_text("banking 2 clashes")
    await expect(lines.nth(1)).to_contain_text("banking@1 is in service")
    await expect(lines.nth(2)).to_contain_text("passed the gate, +0.069 in MRR@10")
    standin.happen("peer.joined", {"peer": "paris", "endpoint": "grpc://10.0.0.9:1"})
    await expect(lines.nth(0)).to_contain_text("paris joined")


async def test_many_domains_are_folded(window: Window, standin: StandIn) -> None:
    standin.status = canned.learning()
    one = standin.status["loop"]["domains"][1]
    standin.status["loop"]["domains"] = [one | {"domain": f"domain-{n}"} for n in range(20)]
    page = await window.open()

    await expect(page.locator("#domains > .domain")).to_have_count(6)
    await page.get_by_text("14 other domains").click()
    await expect(page.get_by_role("heading", name="domain-19")).to_be_visible()


async def test_without_a_fleet_the_page_says_so_and_comes_back(
    window: Window, standin: StandIn
) -> None:
    window.refusals_expected = True
    standin.away = True
    page = await window.open()

    await expect(page.locator("h1")).to_have_text("No fleet behind this page.")
    await expect(page.locator("#aside")).to_contain_text("the bus does not answer.")
    await expect(page.locator("#live")).to_be_hidden()

    standin.away = False
    await expect(page.locator("h1")).to_contain_text("Up and listening")
    await expect(page.locator("#live")).to_be_visible()


async def test_a_locked_fleet_asks_for_a_key_and_keeps_it_for_the_tab(
    window: Window, standin: StandIn
) -> None:
    window.refusals_expected = True
    standin.key = "csn_right"
    page = await window.open()
    key = page.get_by_label("This fleet asks for a key")

    await expect(page.locator("h1")).to_have_text("This fleet is locked.")
    await expect(key).to_be_focused()
    await expect(page.locator("#live")).to_be_hidden()

    await page.keyboard.type("csn_wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("That key does not open this page.")
    await expect(key).to_be_focused()

    await page.keyboard.type("csn_right")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Up and listening")
    await expect(key).to_be_hidden()
    assert standin.listening == 1, "the stream of events carries the key too"

    await page.reload()
    await expect(page.locator("h1")).to_contain_text("Up and listening")
    await page.get_by_role("button", name="Forget the key").click()
    await expect(page.locator("h1")).to_have_text("This fleet is locked.")


async def test_what_troubles_a_process_stands_in_its_own_words(
    window: Window, standin: StandIn
) -> None:
    said = "the disk is full: nothing is journaled until there is room"
    state = canned.empty()
    state["processes"][0] |= {"state": "degraded", "trouble": said}
    standin.status = state
    page = await window.open()

    await expect(page.locator('.process[data-state="degraded"]')).to_contain_text(said)
    await expect(page.locator(".process .trouble")).to_have_count(1)
