"""`GET /v1/status`: what the bus tells of the fleet, in the shape that was agreed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import Event, Payload, PeerJoined, SkillDiscovered
from services.runtime.fleet_view_status import Status
from tests.services.api.kit import Door, opened
from tests.services.runtime.fleet_view_kit import beat, card, published, requested

SHAPE: dict[str, Any] = {
    "time": str,
    "since": str,
    "model": {"id": str, "sha256": str, "dim": int},
    "processes": [
        {
            "service": str,
            "instance": str,
            "pid": int,
            "state": str,
            "queue": int,
            "rss_bytes": int,
            "age_s": float,
            "counters": dict,
            "trouble": type(None),
        }
    ],
    "requests": {
        "minute": {"requests": int, "texts": int, "failed": int, "p50_ms": float, "p95_ms": float},
        "history": list,
    },
    "loop": {
        "batch_size": int,
        "domains": [
            {
                "domain": str,
                "open": int,
                "clashes": int,
                "feedback": int,
                "last": str,
                "training": {
                    "task_id": str,
                    "phase": str,
                    "step": int,
                    "steps": int,
                    "loss": float,
                    "depth": str,
                },
                "verdicts": [
                    {
                        "time": str,
                        "skill": str,
                        "published": bool,
                        "version": int,
                        "depth": str,
                        "reason": str,
                        "before": float,
                        "after": float,
                        "gain": float,
                        "low": float,
                        "high": float,
                        "groups": int,
                    }
                ],
            }
        ],
    },
    "skills": [
        {
            "name": str,
            "version": int,
            "digest": str,
            "state": str,
            "pinned": bool,
            "rank": int,
            "bytes": int,
            "description": str,
            "applies_to": list,
            "before": float,
            "after": float,
            "gain": float,
            "low": float,
            "high": float,
            "parents": list,
            "created": str,
            "signer": type(None),
            "peer": type(None),
            "workers": list,
        }
    ],
    "peers": [
        {
            "peer": str,
            "endpoint": str,
            "skills": [{"name": str, "version": int, "digest": str}],
        }
    ],
    "journal": {"sequence": int, "heads": dict},
}


def mismatch(shape: Any, found: Any, place: str = "$") -> str | None:
    """Where an answer is not of the shape; None where it is."""
    if isinstance(shape, dict):
        if set(shape) != set(found):
            return f"{place}: {sorted(set(shape) ^ set(found))}"
        parts = [mismatch(shape[name], found[name], f"{place}.{name}") for name in shape]
        return next((part for part in parts if part), None)
    if isinstance(shape, list):
        if not found:
            return f"{place} is empty"
        return mismatch(shape[0], found[0], f"{place}[0]")
    fits = type(found) is shape or (shape is float and type(found) is int)
    return None if fits else f"{place} is {found!r}"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path) as door:
        yield door


async def say(door: Door, data: Payload) -> None:
    await door.player.bus.publish(Event(data=data, source="/test/1"))


async def status(door: Door, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The status as soon as it is so."""
    async with asyncio.timeout(20):
        while True:
            answer = await door.client.get("/v1/status")
            assert answer.status_code == 200
            found: dict[str, Any] = answer.json()
            if holds(found):
                return found
            await asyncio.sleep(0.01)


async def test_an_answer_has_the_shape_that_was_agreed(door: Door) -> None:
    from schemas import TrainingProgressed

    law = card("law")
    figures = {"minute_requests": 1, "minute_texts": 1, "p50_ms": 5.5, "p95_ms": 6.5}
    for data in (
        beat("encoder", counters={"dim": 24}),
        beat("router", counters=figures),
        beat("dissonance_monitor", counters={"open:law": 11, "last:law": 1.7e9}),
        requested("t1", "law"),
        published("t0", law),
        TrainingProgressed(task_id="t1", step=1, steps=9, loss=0.5, phase="body"),
        PeerJoined(peer="london", endpoint="10.0.0.1:5000"),
        SkillDiscovered(card=card("tax"), peer="london"),
    ):
        await say(door, data)

    found = await status(door, lambda it: it["peers"] and it["peers"][0]["skills"])
    assert mismatch(SHAPE, found) is None
    assert msgspec.convert(found, Status).loop.domains[0].open == 11


async def test_with_nothing_learned_yet_it_is_empty_and_true(door: Door) -> None:
    found = await status(door, lambda it: len(it["processes"]) == 3)
    assert (found["skills"], found["peers"], found["loop"]["domains"]) == ([], [], [])
    assert found["requests"]["minute"] == {
        "requests": 0,
        "texts": 0,
        "failed": 0,
        "p50_ms": None,
        "p95_ms": None,
    }
    assert found["journal"] == {"sequence": 0, "heads": {}}


async def test_it_asks_for_a_key_where_there_are_keys(door: Door) -> None:
    key = door.keys.create("reader", ["read"])
    assert (await door.client.get("/v1/status")).status_code == 401
    token = key if isinstance(key, str) else key[1]
    answer = await door.client.get("/v1/status", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
