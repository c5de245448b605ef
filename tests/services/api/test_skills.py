"""`/v1/models` and `/v1/skills`: what there is, by any of its names, and what became of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from schemas import (
    BaseModelRef,
    DatasetRef,
    Event,
    Payload,
    SkillCard,
    SkillDiscovered,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)
from services.api import catalogue, skills
from tests.services.api.kit import Door, card, digest

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGNER = "ed25519:somebody"


def some_cards() -> list[Any]:
    return [
        card("banking", 1, state="retired"),
        card("banking", 2, state="kept", threshold=None),
        card("banking", 3),
        card("legal", 7, signer=SIGNER, peer="london"),
        card("medical", 1, state="rejected"),
    ]


async def get(door: Door, path: str) -> Any:
    answer = await door.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_models_are_what_an_embedding_may_name(door: Door) -> None:
    door.player.cards = some_cards()

    models = (await get(door, "/v1/models"))["data"]

    assert [model["id"] for model in models] == ["auto", "base", "banking", "legal"]
    assert [model["owned_by"] for model in models] == ["consonance"] * 3 + ["london"]
    assert models[2]["consonance"]["version"] == 3
    assert models[2]["consonance"]["metrics"]["gain"] == 0.2
    assert models[0]["consonance"] is None


async def test_what_a_peer_offers_is_a_model_until_it_is_here(door: Door) -> None:
    door.player.cards = [card("legal", 7)]
    for one in (plain("legal", 7), plain("medical", 1), plain("medical", 2)):
        offer = SkillDiscovered(card=one, peer="paris")
        await door.player.bus.publish(Event(data=offer, source="/federation/1"))

    async with asyncio.timeout(5):
        while len(models := (await get(door, "/v1/models"))["data"]) < 4:
            pass

    assert [model["id"] for model in models] == ["auto", "base", "legal", "paris/medical"]
    assert (models[3]["owned_by"], models[3]["consonance"]) == ("paris", None)


async def test_skills_are_every_version_of_all(door: Door) -> None:
    door.player.cards = some_cards()

    listed = (await get(door, "/v1/skills"))["data"]

    assert [(one["name"], one["version"], one["state"]) for one in listed] == [
        ("banking", 3, "installed"),
        ("banking", 2, "kept"),
        ("banking", 1, "retired"),
        ("legal", 7, "installed"),
        ("medical", 1, "rejected"),
    ]
    assert [one["routed"] for one in listed] == [True, False, True, True, True]
    assert listed[3]["signer"] == SIGNER
    assert "prototypes" not in listed[0], "they are large, and for routers"


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("banking", 3),
        ("banking@2", 2),
        ("banking@1", 1),
        (digest("banking@2"), 2),
        (digest("banking@2").removeprefix("sha256:")[:12], 2),
        (digest("banking@2")[:20], 2),
        ("london/legal", 7),
        ("london/legal@7", 7),
        ("medical", 1),
    ],
)
async def test_a_skill_is_found_by_any_of_its_names(door: Door, name: str, version: int) -> None:
    door.player.cards = some_cards()

    found = await get(door, f"/v1/skills/{name}")

    assert found["version"] == version
    assert found["version"] in [one["version"] for one in found["versions"]]
    assert {one["name"] for one in found["versions"]} == {found["name"]}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/skills/bankin", "did you mean 'banking'?"),
        ("/v1/skills/banking@9", "there is no skill 'banking@9'"),
        ("/v1/skills/paris/legal", "there is no skill 'paris/legal'"),
        ("/v1/skills/zzz/history", "GET /v1/skills lists all"),
        ("/v1/models/zzz", "there is no skill"),
        ("/v1/models/medical", "'medical' is rejected"),
    ],
)
async def test_an_unknown_one_is_not_found(door: Door, path: str, words: str) -> None:
    door.player.cards = some_cards()

    answer = await door.client.get(path)

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert words in answer.json()["error"]["message"]


async def test_a_manager_that_does_not_answer_is_the_fleets_fault(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.player.lists = False
    monkeypatch.setattr(catalogue, "PATIENCE", 0.1)

    answer = await door.client.get("/v1/skills")

    assert answer.status_code == 503
    assert "did not list its skills" in answer.json()["error"]["message"]


def plain(name: str, version: int) -> SkillCard:
    return msgspec.convert(msgspec.to_builtins(card(name, version)), SkillCard)


async def test_history_tells_what_the_journal_knows_of_one_skill(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skills, "PAGE", 2)  # so that it takes several
    told: list[Payload] = [
        TrainingRequested(
            task_id="t1",
            skill="history",
            domain="history",
            dataset=DatasetRef(digest=digest("data"), rows=64),
            base_model=BaseModelRef(id="model", sha256="0" * 64),
            batch_ids=("b1",),
        ),
        TrainingRejected(
            task_id="t1", skill="history", reason="no gain", metrics={"gain": 0.0}, depth="head"
        ),
        SkillPublished(card=plain("other", 1), origin="factory"),
        SkillPublished(card=plain("history", 1), origin="factory", depth="head", seconds=7.5),
        SkillInstalled(card=plain("history", 1)),
        SkillRejected(name="history", digest=digest("x"), reason="cannot be loaded"),
        SkillRetired(name="history", version=1, digest=digest("history@1"), reason="worse"),
    ]
    for data in told:
        await door.player.bus.publish(Event(data=data, source="/test/1"))

    found = await get(door, "/v1/skills/history/history")
    last = await get(door, "/v1/skills/history/history?limit=2")

    assert found["name"] == "history"
    assert [one["type"] for one in found["data"]] == [
        "training.requested",
        "training.rejected",
        "skill.published",
        "skill.installed",
        "skill.rejected",
        "skill.retired",
    ]
    assert found["data"][0]["rows"] == 64
    assert found["data"][1]["metrics"] == {"gain": 0.0}
    assert found["data"][2]["version"] == 1
    assert found["data"][2]["seconds"] == 7.5
    assert found["data"][5]["reason"] == "worse"
    sequences = [one["sequence"] for one in found["data"]]
    assert sequences == sorted(sequences)
    assert found["truncated"] is False
    assert (last["data"], last["truncated"]) == (found["data"][-2:], True)


@pytest.mark.parametrize(
    "limit", ["0", "1001", "-1", "x", "1.5", "²", "9" * 5000], ids=lambda it: it[:9]
)
async def test_a_limit_that_is_none_is_refused(door: Door, limit: str) -> None:
    answer = await door.client.get("/v1/skills/a/history", params={"limit": limit})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"
