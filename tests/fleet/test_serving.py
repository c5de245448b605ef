"""One real fleet with two encoders: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bus import Bus
from schemas import (
    EncodeCompleted,
    EncodeRequested,
    Event,
    FleetHeartbeat,
)
from services.errors import EncodeFailedError
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head, install


@pytest.fixture(scope="module")
def fleet() -> Iterator[harness.Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    with harness.running(folder, "--workers", "2") as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms


async def test_without_a_card_the_vectors_are_those_of_sentence_transformers(
    fleet: harness.Fleet,
) -> None:
    from sentence_transformers import SentenceTransformer

    from lora.model import find_model

    texts = ["a", "two words", "a much longer text " * 40, "Zürich – naïve café ☕", ""]
    async with fleet.client() as client:
        encoded = await client.encode(texts, route="base")
    model = SentenceTransformer(str(find_model().folder), device="cpu")
    assert (cosines(encoded.vectors, model.encode(texts)) > 0.99999).all()
    assert all(row.reason == "base_requested" for row in encoded.rows)


async def test_an_unknown_skill_is_an_error_and_never_a_base_vector(fleet: harness.Fleet) -> None:
    async with fleet.client() as client:
        with pytest.raises(EncodeFailedError, match="no-such-skill") as caught:
            await client.encode(["text"], skills=["no-such-skill"])
    assert caught.value.code == "unknown_skill"


async def test_cards_are_mixed_in_one_batch_and_each_row_is_as_alone(fleet: harness.Fleet) -> None:
    async with fleet.bus() as bus:
        client = FleetClient(bus)
        for seed, name in enumerate(("mixed-a", "mixed-b", "mixed-c")):
            await install(bus, fleet, head(name, seed))
        texts = [f"sentence number {n} about something" for n in range(24)]
        names = ["mixed-a", "mixed-b", "mixed-c"]
        alone = {name: await client.encode(texts, skills=[name]) for name in names}
        before = await mixed_batches(bus)

        async def one(n: int) -> np.ndarray:
            encoded = await client.encode([texts[n] + " "], skills=[names[n % 3]])
            return encoded.vectors[0]

        together = await asyncio.gather(*(one(n) for n in range(24)))
        for n, vector in enumerate(together):
            same = alone[names[n % 3]].vectors[n : n + 1]
            assert cosines(vector[None], same)[0] > 0.99999

        async def more() -> bool:
            return await mixed_batches(bus) > before

        await harness.until(more, seconds=10, what="a batch with several cards is counted")


async def mixed_batches(bus: Bus) -> int:
    """The counter summed over both encoders."""
    seen: dict[str, int] = {}
    async with bus.watch(FleetHeartbeat) as beats:
        while len(seen) < 2:
            beat = (await beats.get(timeout=10)).data
            if beat.service == "encoder":
                seen[beat.instance] = int(beat.counters.get("mixed_batches", 0))
    return sum(seen.values())


async def test_both_encoders_take_their_share(fleet: harness.Fleet) -> None:
    async def background_is_embedded() -> bool:
        return any((fleet.state / "factory").glob("background-*.npy"))

    # Until then the encoders are at work for the factory, and not to the same part.
    await harness.until(background_is_embedded, seconds=50, every=0.2, what="quiet encoders")
    async with fleet.bus() as bus, bus.watch(EncodeCompleted) as answers:
        for n in range(40):
            await bus.publish(
                Event(
                    data=EncodeRequested(
                        texts=(f"request {n}",), reply_to=bus.address, route="base"
                    ),
                    source=bus.source,
                )
            )
        sources = [(await answers.get(timeout=30)).source for _ in range(40)]
    assert min(sources.count("/encoder/1"), sources.count("/encoder/2")) >= 8


async def test_stacked_skills_are_summed(fleet: harness.Fleet) -> None:
    from lora.head import bend

    async with fleet.bus() as bus:
        client = FleetClient(bus)
        cards = [await install(bus, fleet, head(f"stack-{n}", 10 + n)) for n in range(3)]
        base = await client.encode(["one text"], route="base")
        stacked = await client.encode(["one text"], skills=["stack-0", "stack-1", "stack-2"])
    heads = [card.modules["embedding"] for card in cards]
    assert (cosines(stacked.vectors, bend(base.vectors, heads)) > 0.99999).all()
    assert [skill.name for skill in stacked.rows[0].skills] == ["stack-0", "stack-1", "stack-2"]


async def test_a_new_version_serves_without_a_restart(fleet: harness.Fleet) -> None:
    async with fleet.bus() as bus:
        client = FleetClient(bus)
        first = await install(bus, fleet, head("swapped", 20))
        old = await client.encode(["text"], skills=["swapped"])
        second = await install(bus, fleet, head("swapped", 21, version=2))

        async def newest_serves() -> bool:
            row = (await client.encode(["text"], skills=["swapped"])).rows[0]
            return row.skills[0].digest == second.digest

        # The router hears of it as we do, with no order between the two.
        await harness.until(newest_serves, seconds=20, every=0.05, what="the new version serves")
        new = await client.encode(["text"], skills=["swapped"])
        pinned = await client.encode(["text"], skills=["swapped@1"])
    assert old.rows[0].skills[0].digest == first.digest
    assert new.rows[0].skills[0].digest == second.digest
    # Not bit for bit: beside other texts in a batch a vector differs by rounding.
    assert np.allclose(old.vectors, pinned.vectors, atol=1e-5)
    assert not np.allclose(old.vectors, new.vectors)


async def test_documents_get_no_skill(fleet: harness.Fleet) -> None:
    async with fleet.client() as client:
        encoded = await client.encode(["a passage"], role="document")
    assert encoded.rows[0].reason in {"document", "no_skills"}
    assert encoded.rows[0].skills == ()


async def test_torch_is_in_the_encoders_alone(fleet: harness.Fleet) -> None:
    async with fleet.bus() as bus:
        found = await harness.processes(bus)
    assert {service for service, _ in found} >= {
        "broker", "encoder", "router", "adapter_manager", "dissonance_monitor", "distiller",
        "factory",
    }  # fmt: skip
    for (service, instance), pid in found.items():
        mapped = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
        assert mapped is (service == "encoder"), f"{service} {instance}"
