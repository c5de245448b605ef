"""The Batch API: asked once, found again, paid once, and done without where there is none."""

from collections import Counter
from pathlib import Path

from services.distiller.cloud.budget import Cost
from services.distiller.teacher import Contribution
from tests.services.distiller.cloud.kit import MATERIAL, serving, teaching
from tests.services.distiller.cloud.test_teaching import echo, many
from tests.standin.server import Standin


async def teach(server: Standin, folder: Path, **changes: object) -> Contribution:
    """One order by a process of its own."""
    async with teaching(server, folder, batch_api=True, **changes) as teacher:
        return await teacher.teach(MATERIAL)


async def test_a_batch_is_waited_for_over_restarts_and_then_collected(tmp_path: Path) -> None:
    with serving() as server:
        first = await teach(server, tmp_path)
        second = await teach(server, tmp_path)
        server.finish()
        done = await teach(server, tmp_path)

    for waiting in (first, second):
        assert waiting.pairs == ()
        assert waiting.reason == "a batch of 4 requests is under way"
        assert waiting.again is not None
        assert "heron meals" in waiting.left
    assert done.reason is None
    assert Counter(pair.kind for pair in done.pairs)["question"] == 12
    assert server.counts["/v1/batches"] == 1
    assert server.counts["/v1/chat/completions"] == 0


async def test_a_batch_is_reserved_whole_and_settled_by_what_it_used(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            await teacher.teach(MATERIAL)
            reserved = teacher.budget.spent()
            server.finish()
            await teacher.teach(MATERIAL)
            settled = teacher.budget.spent()

    assert reserved.requests == settled.requests == 4
    assert reserved.tokens > 4 * 4096
    assert 0 < settled.tokens < 4096


async def test_of_a_batch_too_dear_for_today_the_first_part_is_sent(tmp_path: Path) -> None:
    with serving() as server:
        found = await teach(server, tmp_path, requests_per_day=3)

    assert found.reason == "a batch of 3 requests is under way"


async def test_a_batch_made_just_before_a_kill_is_found_again(tmp_path: Path) -> None:
    """Its id was never written down; the server knows it by what it holds."""
    with serving() as server:
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            await teacher.teach(MATERIAL)
            teacher._store.execute("UPDATE batches SET id = NULL")
        again = await teach(server, tmp_path)
        server.finish()
        done = await teach(server, tmp_path)

    assert "under way" in (again.reason or "")
    assert done.reason is None
    assert len(server.batches) == 1


async def test_a_batch_about_to_be_made_at_a_kill_is_made_then(tmp_path: Path) -> None:
    with serving() as server:
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            await teacher.teach(MATERIAL)
            teacher._store.execute("UPDATE batches SET id = NULL")
            server.batches.clear()
            await teacher.teach(MATERIAL)
            assert teacher.budget.spent().requests == 4

    assert len(server.batches) == 1


async def test_what_a_batch_failed_at_is_asked_directly(tmp_path: Path) -> None:
    with serving() as server:
        await teach(server, tmp_path)
        server.models = ("embedder",)
        server.finish()
        server.models = ("teacher",)
        done = await teach(server, tmp_path)

    assert done.reason is None
    assert server.counts["/v1/chat/completions"] == 4


async def test_what_a_batch_failed_at_makes_no_second_batch(tmp_path: Path) -> None:
    """Not even where another domain's order collected it, and the server is down then."""
    with serving() as server:
        await teach(server, tmp_path)
        server.models = ()
        server.finish()
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            await teacher.teach(many(1))
        server.finish()
        server.models = ("teacher",)
        done = await teach(server, tmp_path)

    assert done.reason is None
    assert len(server.batches) == 2
    assert server.counts["task:grades"] == 1


async def test_what_was_cut_off_in_a_batch_is_asked_in_halves(tmp_path: Path) -> None:
    with serving() as server:
        await teach(server, tmp_path)
        server.finish()
        (batch,) = server.batches.values()
        lines = server._files[batch.output or ""]
        server._files[batch.output or ""] = lines.replace(b'"stop"', b'"length"')
        done = await teach(server, tmp_path)
        server.finish()
        done = await teach(server, tmp_path)

    assert done.reason == "1 × left out: the answer was cut off"  # the one request of one item
    assert Counter(pair.kind for pair in done.pairs)["question"] == 12


async def test_a_batch_that_the_server_forgot_is_asked_directly(tmp_path: Path) -> None:
    with serving() as server:
        await teach(server, tmp_path)
        server.batches.clear()
        done = await teach(server, tmp_path)

    assert done.reason is None
    assert server.counts["/v1/chat/completions"] == 4


async def test_what_the_server_takes_into_no_batch_is_asked_directly(tmp_path: Path) -> None:
    """And what is in a batch already is waited for all the same."""
    with serving() as server:
        await teach(server, tmp_path)
        server.takes_batches = False
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            other = await teacher.teach(many(1))
            reserved = teacher.budget.spent()
        waiting = await teach(server, tmp_path)

    assert other.reason is None or "asking the teacher failed" not in other.reason
    assert server.counts["/v1/chat/completions"] > 0
    assert waiting.reason == "a batch of 4 requests is under way"
    assert reserved.requests == 4 + server.counts["/v1/chat/completions"]


async def test_a_server_without_it_is_asked_directly(tmp_path: Path) -> None:
    with serving(echo, offers_batches=False) as server:
        async with teaching(server, tmp_path, batch_api=True) as teacher:
            for _ in range(2):
                found = await teacher.teach(many(3))
            spent = teacher.budget.spent()

    assert len(found.pairs) == 6
    assert found.reason is None
    assert server.counts["/v1/files"] == 1
    assert spent.requests == server.counts["/v1/chat/completions"] == 1
    assert spent != Cost()
