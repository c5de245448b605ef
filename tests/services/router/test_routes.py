"""Which skills make a row: by name, by meaning, for documents; and why none does."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from lora.neighbours import stacks_key
from schemas import (
    Event,
    SkillRetire,
    SkillRetired,
)
from services.router.service import RouterService
from tests.services.encoder.processes import applied, engine, skill, until
from tests.services.router.fleet import Fleet, base, reasons, refused, routed

pytestmark = pytest.mark.timeout(120)


async def test_a_base_request_is_answered_with_the_models_own_vectors(fleet: Fleet) -> None:
    await fleet.up()
    client = await fleet.client()
    answer = await client.encode(["one", "two"], route="base")
    np.testing.assert_allclose(answer.vectors, base("one", "two"), atol=1e-5)
    assert reasons(answer) == ["base_requested"] * 2


async def test_a_named_skill_is_applied_by_every_form_of_its_name(fleet: Fleet) -> None:
    await fleet.up()
    first, second = await fleet.teach(skill("law", 1, seed=1), skill("law", 2, seed=2))
    client = await fleet.client()
    for name, card in (
        ("law", second),
        ("law@1", first),
        (first.key, first),
        (second.key[:19], second),
    ):
        answer = await client.encode(["a text"], skills=[name])
        expected = engine(1).encode_rows(["a text"], [[card]])
        np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
        (used,) = answer.rows[0].skills
        assert (used.digest, used.version, used.score) == (card.key, card.version, 1.0)


async def test_skills_stack_in_one_row(fleet: Fleet) -> None:
    await fleet.up()
    cards = await fleet.teach(
        skill("law", seed=1), skill("tax", seed=2, body=True), skill("art", seed=3)
    )
    client = await fleet.client()
    answer = await client.encode(["a text"], skills=["law", "tax", "art"])
    expected = engine(1).encode_rows(["a text"], [cards])
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert applied(answer.rows) == [("law", "tax", "art")]


async def test_an_unknown_skill_is_an_error_that_names_what_is_near(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(skill("banking"))
    error = await refused(await fleet.client(), ["a text"], skills=["bankign"])
    assert error.code == "unknown_skill"
    assert "did you mean 'banking'" in str(error)


async def test_auto_routes_each_text_and_says_why_not(fleet: Fleet) -> None:
    await fleet.up()
    client = await fleet.client()
    texts = ["I lost my bank card", "the weather is fine", "my bank card was stolen"]
    assert reasons(await client.encode(texts)) == ["no_skills"] * 3

    (card,) = await fleet.teach(routed("banking", "I have lost my bank card"))
    answer = await client.encode(texts)

    assert applied(answer.rows) == [("banking",), (), ("banking",)]
    assert reasons(answer) == [None, "below_threshold", None]
    expected = engine(1).encode_rows(texts, [[card], [], [card]])
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert answer.rows[0].skills[0].score == pytest.approx(
        float(base(texts[0])[0] @ base("I have lost my bank card")[0]), abs=1e-4
    )


async def test_a_head_on_a_text_that_was_routed_needs_no_second_pass(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(routed("banking", "I have lost my bank card"))
    client = await fleet.client()
    before = [engine(number).statistics().rows for number in (0, 1)]
    await client.encode(["I have lost my credit card"])
    after = [engine(number).statistics().rows for number in (0, 1)]
    assert sum(after) - sum(before) == 1


async def test_an_intent_decides_for_all_rows(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(
        routed("banking", "I have lost my bank card", seed=1),
        routed("cards", "I lost a bank card", seed=2),
    )
    client = await fleet.client()
    answer = await client.encode(["x", "y"], intent="I have lost my bank card")
    assert applied(answer.rows) == [("banking",)] * 2
    answer = await client.encode(["x", "y"], intent="I have lost my bank card", top_k=3)
    assert applied(answer.rows) == [("banking",)] * 2, "nothing says that stacking helps"
    answer = await client.encode(["I have lost my bank card"], intent="the weather")
    assert reasons(answer) == ["below_threshold"]


async def test_a_skill_is_stacked_where_its_neighbour_has_evidence(fleet: Fleet) -> None:
    """And a text that is as near to two skills that do not know each other gets neither."""
    await fleet.up()
    (cards,) = await fleet.teach(routed("cards", "I lost a bank card", seed=2))
    assert cards.digest is not None
    banking = routed("banking", "I have lost my bank card", seed=1)
    evidence = {"beside.cards": 0.0, stacks_key(cards.digest): 0.01}
    await fleet.teach(replace(banking, metrics=evidence))
    client = await fleet.client()
    texts = ["I have lost my bank card"]
    assert applied((await client.encode(texts, top_k=2)).rows) == [("banking", "cards")]
    assert applied((await client.encode(texts)).rows) == [("banking",)]

    await fleet.teach(routed("twin", "I have lost my bank card", seed=3))
    answer = await client.encode(texts, top_k=2)
    assert applied(answer.rows) == [()]
    assert reasons(answer) == ["ambiguous"]


async def test_a_card_without_prototypes_is_found_by_its_description(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(skill("cooking", description="how to cook a meal", threshold=0.1))
    client = await fleet.client()

    async def found() -> bool:
        answer = await client.encode(["how to cook a meal", "the law of torts"])
        return applied(answer.rows) == [("cooking",), ()]

    await until(found, "the description in the index")


async def test_a_card_for_named_use_only_is_never_routed_to(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    await fleet.teach(skill("banking", prototypes=base(about), threshold=None))
    client = await fleet.client()
    assert reasons(await client.encode([about])) == ["no_skills"]
    assert applied((await client.encode([about], skills=["banking"])).rows) == [("banking",)]


async def test_documents_stay_as_they_are_unless_a_card_says_so(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    await fleet.teach(routed("banking", about))
    client = await fleet.client()
    for options in ({}, {"skills": ["banking"]}, {"intent": about}):
        answer = await client.encode([about], role="document", **options)
        assert reasons(answer) == ["document"]
        np.testing.assert_allclose(answer.vectors, base(about), atol=1e-5)

    await fleet.teach(routed("both", about, seed=5, applies_to=("query", "document")))
    answer = await client.encode([about, "the weather"], role="document")
    assert applied(answer.rows) == [("both",), ()]
    answer = await client.encode([about], role="document", skills=["banking", "both"])
    assert applied(answer.rows) == [("both",)]


async def test_retiring_a_version_brings_the_one_before_back(fleet: Fleet) -> None:
    await fleet.up()
    about = "I have lost my bank card"
    _, second = await fleet.teach(routed("banking", about), routed("banking", about, version=2))
    client = await fleet.client()
    assert (await client.encode([about])).rows[0].skills[0].version == 2
    ear = await fleet.ear(SkillRetired)
    bus = await fleet.bus("/factory/1")
    data = SkillRetire(name="banking", version=2, digest=second.key, reason="worse")
    await bus.publish(Event(data=data, source="/factory/1"))
    await ear.first(SkillRetired)
    await until(lambda: second.key not in fleet.router.skills.directory, "the router")
    for options in ({}, {"skills": ["banking"]}):
        assert (await client.encode([about], **options)).rows[0].skills[0].version == 1
    assert (await refused(client, ["x"], skills=["banking@2"])).code == "unknown_skill"


async def test_a_router_that_starts_anew_knows_what_is_installed(fleet: Fleet) -> None:
    await fleet.up()
    await fleet.teach(routed("banking", "I have lost my bank card"))
    await fleet.kill(fleet.router)
    client = await fleet.client()
    waiting = asyncio.create_task(client.encode(["I have lost my bank card"]))
    await asyncio.sleep(0)
    await fleet.start(RouterService)
    assert applied((await waiting).rows) == [("banking",)]
