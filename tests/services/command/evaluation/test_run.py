"""An evaluation over a bus: what is asked, kept, measured, and said of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from bus import connect
from services.command.errors import InputRefused
from services.command.evaluation import folder as folder_module
from services.command.evaluation.errors import OtherVectors
from services.command.evaluation.feedback import domain_of, pieces
from services.command.evaluation.folder import Collection, read_folder
from services.command.evaluation.run import Evaluation, evaluate, models_of
from services.errors import EncodeFailedError
from services.runtime.client import FleetClient
from tests.services.command.evaluation.fakes import DOCUMENTS, FakeFleet, fake_fleet, shop


class Bench:
    """A fake fleet, a client of it, a folder and a cache."""

    def __init__(self, fleet: FakeFleet, client: FleetClient, folder: Path) -> None:
        self.fleet = fleet
        self.client = client
        self.folder = shop(folder / "shop")
        self.cache = folder / "cache"

    async def evaluate(
        self, *models: str, collection: Collection | None = None, **options: object
    ) -> Evaluation:
        read = collection or read_folder(self.folder)
        return await evaluate(self.client, read, models_of(models), self.cache, **options)  # type: ignore[arg-type]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    url = f"memory://{uuid4().hex}"
    async with fake_fleet(url) as fleet, await connect(url, source="/test/1") as bus:
        yield Bench(fleet, FleetClient(bus, deadline_ms=5_000), tmp_path)


async def test_skills_are_held_against_base_query_by_query(bench: Bench) -> None:
    found = (await bench.evaluate("auto", "jargon")).report
    base, auto, named = found.runs
    assert [run.model for run in found.runs] == ["base", "auto", "jargon"]
    assert (found.documents, found.queries, found.model) == (5, 30, "bag-of-words")
    assert list(base.measures) == ["ndcg@10", "mrr@10", "recall@10", "recall@100"]
    assert base.routing.reasons == {"base_requested": 30}
    # Three queries in thirty have no code word: base finds them, and no skill is routed to.
    assert auto.routing.share == 0.9
    assert auto.routing.skills == {"jargon@2": 27}
    assert auto.routing.reasons == {"below_threshold": 3}
    assert named.routing.share == 1.0
    gain = auto.measures["mrr@10"]
    assert gain.value == 1.0
    assert gain.proven
    assert gain.difference == pytest.approx(1.0 - base.measures["mrr@10"].value)
    assert gain.low is not None
    assert gain.high is not None
    assert 0 < gain.low < gain.difference < gain.high
    assert gain.worse == 0
    assert len(auto.gained) == 5
    assert auto.lost == ()
    best = auto.gained[0]
    assert best.after == 1.0
    assert best.rank_after == 1
    assert best.rank_before is not None
    assert best.rank_before > 1
    # With five documents nobody can do better than to find all of them.
    assert auto.measures["recall@100"].difference == 0
    assert not auto.measures["recall@100"].proven


async def test_without_skills_there_is_nothing_to_tell_apart(bench: Bench) -> None:
    bench.fleet.skills = False
    (_, auto) = (await bench.evaluate()).report.runs
    assert auto.routing.reasons == {"no_skills": 30}
    assert all(it.difference == 0 and not it.proven for it in auto.measures.values())
    assert auto.gained == auto.lost == ()


async def test_documents_are_embedded_once_with_base_and_queries_each_time(bench: Bench) -> None:
    first = await bench.evaluate()
    asked = bench.fleet.documents
    assert first.report.embedded == 5
    again = await bench.evaluate("jargon")
    assert again.report.embedded == 0
    # The second time the first four are asked, to see that the model is the same.
    assert bench.fleet.documents == asked + 4
    assert all(it.route == "base" for it in bench.fleet.requests if it.role == "document")
    assert again.report.runs[0].measures == first.report.runs[0].measures


async def test_what_is_new_in_a_corpus_is_embedded_and_the_rest_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "BLOCK", 2)
    await bench.evaluate()
    with (bench.folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "something new"}\n')
    assert (await bench.evaluate()).report.embedded == 2, "the last block, of one before"


async def test_an_interrupted_evaluation_goes_on_where_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "BLOCK", 2)
    bench.fleet.fail_after = 3  # the probe and two blocks
    with pytest.raises(EncodeFailedError, match="on fire"):
        await bench.evaluate()
    bench.fleet.fail_after = None
    heard: list[tuple[str, int, int, int]] = []
    found = await bench.evaluate(progress=lambda *words: heard.append(words))
    assert found.report.embedded == 1
    assert ("documents embedded", 5, 5, 4) in heard
    assert heard[-1] == ("documents ranked", 5, 5, 0)
    assert ("queries, base", 30, 30, 0) in heard


async def test_a_block_that_is_damaged_is_made_again(bench: Bench) -> None:
    before = await bench.evaluate()
    (file,) = bench.cache.rglob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    after = await bench.evaluate()
    assert after.report.embedded == 5
    assert after.report.runs == before.report.runs


async def test_another_model_of_the_same_name_does_not_get_these_vectors(bench: Bench) -> None:
    await bench.evaluate()
    bench.fleet.other = True
    with pytest.raises(OtherVectors, match="not those of the fleet's model: remove that folder"):
        await bench.evaluate()


async def test_the_first_block_that_is_found_tells_whose_vectors_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "BLOCK", 2)
    await bench.evaluate()
    corpus = bench.folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("a refund", "the refund"))
    assert (await bench.evaluate()).report.embedded == 2
    corpus.write_text(corpus.read_text().replace("the refund", "any refund"))
    bench.fleet.other = True
    with pytest.raises(OtherVectors, match="not those of the fleet's model"):
        await bench.evaluate()


async def test_vectors_are_kept_apart_by_model(bench: Bench) -> None:
    await bench.evaluate()
    bench.fleet.model, bench.fleet.other = "another", True
    assert (await bench.evaluate()).report.embedded == 5
    assert (await bench.evaluate(weights="ab" * 32)).report.embedded == 5
    assert len(list(bench.cache.iterdir())) == 3


async def test_an_unknown_skill_is_refused_before_a_document_is_embedded(bench: Bench) -> None:
    with pytest.raises(EncodeFailedError, match="'nope' is not installed") as refused:
        await bench.evaluate("nope")
    assert refused.value.code == "unknown_skill"
    assert bench.fleet.documents == 0


async def test_what_is_cancelled_leaves_no_part_of_a_block(bench: Bench) -> None:
    task = asyncio.create_task(bench.evaluate())
    while not bench.fleet.documents:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(bench.cache.rglob("*.part"))


async def test_a_skill_for_documents_too_is_said_not_to_be_at_its_best(bench: Bench) -> None:
    assert (await bench.evaluate("jargon")).report.notes == ()
    bench.fleet.applies_to = ("query", "document")
    found = await bench.evaluate("jargon")
    assert found.report.notes == (
        "jargon is made for documents, too, but theirs are base vectors here.",
    )


async def test_the_cutoff_is_that_of_the_measures(bench: Bench) -> None:
    found = (await bench.evaluate(k=3)).report
    assert list(found.runs[0].measures) == ["ndcg@3", "mrr@3", "recall@3", "recall@100"]
    found = (await bench.evaluate(k=100)).report
    assert list(found.runs[0].measures) == ["ndcg@100", "mrr@100", "recall@100"]


async def test_the_rankings_are_those_of_the_figures(bench: Bench) -> None:
    found = await bench.evaluate()
    ranked = found.ranked["auto"]
    assert ranked.documents.shape == (30, 100)
    assert (ranked.documents[:, 5:] == -1).all()
    assert (np.diff(ranked.scores[:, :5], axis=1) <= 0).all()


def test_base_is_always_asked_and_nothing_twice() -> None:
    assert models_of(()) == ("base", "auto")
    assert models_of(("a", "base", "a", "b+c")) == ("base", "a", "b+c")
    with pytest.raises(InputRefused, match="joined by"):
        models_of(("a+",))


async def test_judgements_become_what_people_would_say_of_the_first_ten(bench: Bench) -> None:
    found = await bench.evaluate("base")
    collection = read_folder(bench.folder)
    made = list(pieces(collection, found.ranked["base"], "shop"))
    assert len(made) == 30
    for piece, query, numbers in zip(
        made, collection.queries, found.ranked["base"].documents, strict=True
    ):
        right = DOCUMENTS[query.id.partition("-")[0]]
        shown = [DOCUMENTS[collection.ids[it]] for it in numbers if it >= 0]
        assert piece == {
            "query": query.text,
            "relevant": [right],
            "irrelevant": [text for text in shown if text != right],
            "domain": "shop",
            "served": [],
        }


async def test_what_says_the_same_as_a_relevant_document_is_not_called_irrelevant(
    bench: Bench,
) -> None:
    with (bench.folder / "corpus.jsonl").open("a") as file:
        file.write(f'{{"_id": "copy", "text": "{DOCUMENTS["refunds"]}"}}\n')
    found = await bench.evaluate("base")
    for piece in pieces(read_folder(bench.folder), found.ranked["base"], "shop"):
        assert not set(piece["relevant"]) & set(piece["irrelevant"])


@pytest.mark.parametrize(
    ("folder", "domain"),
    [
        pytest.param("/data/Support 2024", "support-2024", id="spaces"),
        pytest.param("/data/stdlib", "stdlib", id="plain"),
        pytest.param("/data/_.x", "x", id="signs first"),
        pytest.param("/", "evaluated", id="no name"),
        pytest.param("/data/" + "x" * 80, "x" * 64, id="long"),
    ],
)
def test_a_folders_name_becomes_that_of_a_domain(folder: str, domain: str) -> None:
    assert domain_of(Path(folder)) == domain
