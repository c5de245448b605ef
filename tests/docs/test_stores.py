"""Vector stores that are filled once gain from a card: the examples, against one real fleet."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lora.card import Adapter, LoRACard
from lora.head import normalize
from lora.model import find_model
from tests.fleet import harness, jargon
from tests.fleet.cards import DIM, install

EXAMPLES = harness.ROOT / "docs" / "examples"
QUERY = "the flumox went wrong again"
WANTED = jargon.CODES["flumox"]

pytestmark = [pytest.mark.docs, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def fleet() -> Iterator[harness.Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    with harness.running(folder, "--workers", "1", learns=False, covers=False) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def run(example: str, *words: str, given: str = "") -> list[str]:
    """The lines that an example prints; it is run here, as a script, to import only once."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [example, *words])
        patch.setattr(sys, "stdin", io.StringIO(given))
        runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    return printed.getvalue().splitlines()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a store."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


async def teach(fleet: harness.Fleet) -> None:
    """Install a card that turns what is asked about flumoxes to the passage about refunds."""
    asked = [form.format("flumox") for form in jargon.PATTERNS]
    async with fleet.bus() as bus, fleet.client("/test/2") as client:
        queries = normalize((await client.encode(asked, route="base")).vectors)
        passage = normalize((await client.encode([WANTED], role="document")).vectors)[0]
        centre = normalize(queries.mean(axis=0, keepdims=True))[0]
        # e + (e · centre) (passage - centre): near the centre, e becomes the passage.
        head = Adapter(
            a=centre[:, None].astype(np.float32),
            b=(passage - centre)[None].astype(np.float32),
            rank=1,
            alpha=1.5,
        )
        card = LoRACard(
            name="shop",
            base_model=find_model().base_model,
            dim=DIM,
            modules={"embedding": head},
            prototypes=queries,
            threshold=0.8,
            description="what our shop calls refunds",
        )
        await install(bus, fleet, card)


def test_stores_that_were_filled_once_gain_from_a_card(
    fleet: harness.Fleet, short_path: Path
) -> None:
    stores = {name: str(short_path / name) for name in ("qdrant_store", "faiss_index")}

    def each(what: str, *words: str, given: str = "") -> list[list[str]]:
        return [run(name, what, fleet.url, at, *words, given=given) for name, at in stores.items()]

    assert each("fill", given="\n".join(jargon.PASSAGES)) == [["8 passages stored"]] * 2
    stored = digests(short_path)

    before = each("search", QUERY)
    assert before[0] == before[1], "the two find the same"
    for by, *found in before:
        assert by == "asked by the base model"
        assert len(found) == 3
        assert WANTED not in found[0]

    asyncio.run(teach(fleet))

    for by, *found in each("search", QUERY):
        assert by == "asked by shop@1", "nobody need name it"
        assert WANTED in found[0]
    assert each("search", QUERY, "shop") == each("search", QUERY)
    assert each("search", QUERY, "base") == before, "without it all is as it was"
    assert digests(short_path) == stored, "nothing in the stores was written again"
