"""What was answered for a domain is erased, and what is still under way is not kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.runtime.store import open_store
from tests.services.distiller.cloud.kit import MATERIAL, serving, teaching
from tests.services.distiller.cloud.test_teaching import many
from tests.services.forgetting import holding

MINE = "what does the heron eat"


async def test_answers_of_the_domain_go_and_others_stay(tmp_path: Path) -> None:
    fish = replace(many(2), domain="fish", passages=("crane food",))
    with serving() as server:
        async with teaching(server, tmp_path) as teacher:
            await teacher.teach(MATERIAL)
            await teacher.teach(fish)
            assert holding(tmp_path, [MINE])
            await teacher.forget("birds")
            assert holding(tmp_path, [MINE]) == []
            asked = server.counts["/v1/chat/completions"]
            await teacher.teach(fish)
            assert server.counts["/v1/chat/completions"] == asked, "it is known still"
            await teacher.teach(MATERIAL)
            assert server.counts["/v1/chat/completions"] > asked, "it is not"


async def test_a_batch_under_way_brings_nothing_of_it_back(tmp_path: Path) -> None:
    fish = replace(many(2), domain="fish", passages=("crane food",))
    with serving() as server:
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            await teacher.teach(MATERIAL)
            await teacher.teach(fish)
            await teacher.forget("birds")
            server.finish()
            found = await teacher.teach(fish)
            assert holding(tmp_path, [MINE]) == []
            assert teacher.budget.spent().tokens > 0, "what was asked for is paid for"

    assert found.reason is None
    assert {pair.passage for pair in found.pairs} == {"crane food"}


async def test_answers_from_before_domains_were_noted_go_with_any(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path) as teacher:
            await teacher.teach(MATERIAL)
        store = open_store(tmp_path / "teacher.sqlite", "")
        store.execute("UPDATE answers SET domain = NULL")
        store.close()
        async with teaching(server, tmp_path) as teacher:
            await teacher.forget("fish")
            assert holding(tmp_path, [MINE]) == []
