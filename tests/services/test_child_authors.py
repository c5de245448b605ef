"""What the training child makes of a champion and of neighbours that another author made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lora.adapter import Adapter, FloatArray
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.neighbours import beside_key
from lora.training.gate import Arena, mrr
from services.factory import child
from services.factory.job import CANDIDATE, ChampionRef
from tests.lora.cards import adapter
from tests.lora.training.synthetic import DIM, world
from tests.services.test_child import prepare


def card(
    path: Path, name: str, *, body: bool = False, points: FloatArray | None = None
) -> LoRACard:
    """A card that turns every query into noise, and claims all that there are."""
    modules: dict[str, Adapter] = {"embedding": adapter(DIM, DIM, size=3.0)}
    if body:
        modules["layer.query"] = adapter(DIM, DIM)
    made = LoRACard(
        name=name,
        version=7,
        base_model=BaseModel("model", "0" * 64),
        dim=DIM,
        modules=modules,
        prototypes=np.eye(DIM, dtype=np.float32) if points is None else points,
        threshold=-1.0,
    )
    return LoRAFormat.write(made, path)


@pytest.mark.parametrize("body", [False, True], ids=["head-alone", "with-body"])
def test_another_authors_card_is_parent_of_a_head_that_stands_upon_its_body_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bool
) -> None:
    data = world(queries=100, noise=0.2)
    theirs = card(tmp_path / "theirs", "banking", body=body)
    monkeypatch.setattr(
        child, "_encoder", lambda job: lambda texts, it: data.query_vectors[: len(texts)]
    )
    champion = ChampionRef(str(tmp_path / "theirs"), theirs.digest or "", 7, foreign=True)
    parents = (theirs.digest or "",)
    job = prepare(tmp_path / "job", data, champion=champion, parents=parents)
    child.run(tmp_path / "job", job)

    made = LoRAFormat.read(tmp_path / "job" / CANDIDATE)
    assert bool(made.body) is body
    assert made.parents == (parents if body else ())


def test_another_authors_cards_claim_what_the_router_gives_them_and_no_more(tmp_path: Path) -> None:
    """Given two that claim all queries: the champion spoils them, the neighbour lies upon them."""
    data = world(queries=100, noise=0.2)
    theirs = card(tmp_path / "theirs", "banking")
    beside = card(tmp_path / "beside", "finance", points=data.query_vectors[::2])
    arena = Arena(data)
    base = mrr(arena.ranks(data.query_vectors[arena.rows]))
    routed, before = [], []
    for least in ({}, {theirs.digest or "": 1.0, beside.digest or "": 1.0}):
        job = prepare(
            tmp_path / f"job-{len(least)}",
            data,
            champion=ChampionRef(str(tmp_path / "theirs"), theirs.digest or "", 7, foreign=True),
            neighbours=(str(tmp_path / "beside"),),
            claims=least,
        )
        metrics = child.run(tmp_path / f"job-{len(least)}", job).metrics
        assert beside_key("finance") in metrics or not least
        before.append(metrics["before"])
        routed.append(metrics["routed"])

    assert before[0] != pytest.approx(base, abs=0.05)
    assert before[1] == pytest.approx(base)
    assert float(routed[0] or 0) < 0.5 < float(routed[1] or 0)
