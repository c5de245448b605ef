"""A body's training that is interrupted anywhere comes to the same bits as one that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora.card import LoRACard
from lora.training.body import BodyConfig, BodySweep, body_candidate, train_body
from lora.training.candidate import Candidate, CandidateRequest, fold_groups
from lora.training.champion import Champion, pack_groups
from lora.training.checkpoint import Checkpoints
from lora.training.gate import Arena
from tests.lora.training.encoded import encoded, louder

SWEEP = BodySweep(
    config=BodyConfig(layers=1, epochs=2, learning_rate=2e-2),
    threads=1,
    head_steps=5,
    bodies=(1.0,),
    heads=(1.0,),
    alone=(),
)
SETTINGS = {
    "layers": 1,
    "targets": ("query", "value"),
    "epochs": 3,
    "learning_rate": 2e-2,
    "head_steps": 5,
    "bodies": (1.0,),
    "heads": (1.0,),
    "alone": (),
}
CREATED = "2026-01-01T00:00:00Z"


class Killed(Exception):
    """Raised where a process would have been killed."""


@pytest.fixture
def tiny(tiny):
    return louder(tiny)


def _same(left, right) -> bool:
    return set(left) == set(right) and all(
        np.array_equal(left[name].a, right[name].a) and np.array_equal(left[name].b, right[name].b)
        for name in left
    )


def test_interrupted_at_many_points_it_comes_to_the_same_bits(tiny, tmp_path: Path) -> None:
    """Every run dies a few steps after the place that the one before it reached."""
    data = encoded(tiny)
    arena = Arena(data)
    whole = train_body(data, arena, tiny, SWEEP)
    place, deaths, told = tmp_path / "kept", 0, 0

    def dies(step: int, steps: int, loss: float) -> None:
        nonlocal told
        told += 1
        if told == 9:
            raise Killed

    while True:
        told = 0
        try:
            kept = Checkpoints(place, "mine", every_s=0.0)
            trained = train_body(data, arena, tiny, SWEEP, checkpoints=kept, progress=dies)
            break
        except Killed:
            deaths += 1
            assert deaths < 60
    assert deaths > 5
    assert np.array_equal(trained.vectors, whole.vectors)
    assert _same(trained.modules, whole.modules)
    assert all(_same(trained.folds[fold], whole.folds[fold]) for fold in whole.folds)
    assert trained.choice == whole.choice


def test_what_is_done_is_not_done_again(tiny, tmp_path: Path) -> None:
    data = encoded(tiny)
    arena = Arena(data)
    place, steps = tmp_path / "kept", []
    first = train_body(data, arena, tiny, SWEEP, checkpoints=Checkpoints(place, "mine"))
    again = train_body(
        data,
        arena,
        tiny,
        SWEEP,
        checkpoints=Checkpoints(place, "mine"),
        progress=lambda *told: steps.append(told),
    )
    assert _same(first.modules, again.modules)
    # Each of the fits is told of at once, and the end.
    assert len(steps) <= len(first.plan.inner) + len(first.folds) + 2
    assert steps[-1][0] == steps[-1][1]


def test_a_plan_that_rests_on_speed_is_made_once(tiny, tmp_path: Path) -> None:
    """The second run has a clock on which nothing would be affordable."""
    data = encoded(tiny)
    arena = Arena(data)
    sweep = replace(SWEEP, time_budget_s=1e6)
    place = tmp_path / "kept"
    first = train_body(data, arena, tiny, sweep, checkpoints=Checkpoints(place, "mine"))
    for file in place.glob("outer-*"):
        file.unlink()
    late = iter(range(0, 10**9, 10**5))
    kept = Checkpoints(place, "mine", clock=lambda: float(next(late)))
    again = train_body(data, arena, tiny, sweep, checkpoints=kept)
    assert again.plan == first.plan
    assert _same(again.modules, first.modules)


def test_time_spent_before_a_kill_counts_against_the_budget(tiny, tmp_path: Path) -> None:
    data = encoded(tiny)
    sweep = replace(SWEEP, time_budget_s=1000.0, config=replace(SWEEP.config, epochs=4))
    place = tmp_path / "kept"
    now = [0.0]
    before = Checkpoints(place, "mine", clock=lambda: now[0])
    now[0] = 999.999
    before.put("something", {}, {})
    kept = Checkpoints(place, "mine")
    late = train_body(data, Arena(data), tiny, sweep, checkpoints=kept)
    free = train_body(data, Arena(data), tiny, sweep)
    assert late.plan.epochs < free.plan.epochs == 4


def _request(data, engine, **about) -> CandidateRequest:
    return CandidateRequest(
        data=data,
        skill="clues",
        data_digest="sha256:" + "0" * 64,
        base_model=engine.base_model,
        created=CREATED,
        **{"version": 1, "time_budget_s": 600.0, "settings": SETTINGS} | about,
    )


def _bytes(card: LoRACard | None, folder: Path) -> bytes:
    assert card is not None
    from lora.card import LoRAFormat

    path = folder / "a.lora.arrow"
    LoRAFormat.write(card, path)
    return path.read_bytes()


def test_the_same_request_gives_the_same_card_to_the_byte(tiny, tmp_path: Path) -> None:
    data = encoded(tiny)
    one, two = (body_candidate(_request(data, tiny), engine=tiny) for _ in range(2))
    assert _bytes(one.card, tmp_path) == _bytes(two.card, tmp_path)
    assert set(one.folds) == set(two.folds)
    for fold in one.folds:
        assert _bytes(one.folds[fold], tmp_path) == _bytes(two.folds[fold], tmp_path)
    other = body_candidate(_request(data, tiny, seed=1), engine=tiny)
    assert other.card is None or _bytes(other.card, tmp_path) != _bytes(one.card, tmp_path)


def _champion(candidate: Candidate, data) -> Champion:
    assert candidate.card is not None
    assert candidate.card.body
    return Champion(candidate.card, candidate.folds, np.unique(data.groups))


def _unscheduled(**about) -> dict:
    return {k: v for k, v in SETTINGS.items() if k not in ("layers", "targets")} | about


def test_a_body_that_follows_a_body_begins_from_it_and_grows(tiny, monkeypatch) -> None:
    """Its rank is the schedule's where that says more, and the champion's where it says less."""
    from lora.training import body, body_learner

    data = encoded(tiny)
    begun: list[dict[str, int]] = []
    first = body_candidate(_request(data, tiny, settings=_unscheduled(rank=3)), engine=tiny)
    champion = _champion(first, data)
    assert {adapter.rank for adapter in champion.card.body.values()} == {3}
    assert not first.chosen["continued"]

    attach = body_learner.Replica.attach

    def seen(self, config, initial=None):
        begun.append({name: a.rank for name, a in (initial or {}).items()})
        return attach(self, config, initial)

    monkeypatch.setattr(body_learner.Replica, "attach", seen)
    monkeypatch.setattr(body, "body_rank", lambda groups: 5)
    request = _request(data, tiny, champion=champion, version=2, settings=_unscheduled())
    second = body_candidate(request, engine=tiny)
    assert second.chosen["continued"]
    assert any(set(ranks.values()) == {5} for ranks in begun)
    if second.card is not None and second.card.body:
        assert {adapter.rank for adapter in second.card.body.values()} == {5}
    begun.clear()
    monkeypatch.setattr(body, "body_rank", lambda groups: 1)
    body_candidate(request, engine=tiny)
    assert any(set(ranks.values()) == {3} for ranks in begun)
    assert not any({1, 5} & set(ranks.values()) for ranks in begun)


def test_a_body_is_begun_from_only_where_no_fold_was_seen(tiny) -> None:
    """A champion whose fold models are missing, or saw their folds, is nothing to begin from."""
    data = encoded(tiny)
    first = body_candidate(_request(data, tiny, settings=_unscheduled()), engine=tiny)
    champion = _champion(first, data)
    missing = replace(champion, folds={k: v for k, v in champion.folds.items() if k != 2})
    forgot = fold_groups(data, 1)[1:]
    saw = {**champion.folds, 1: replace(champion.folds[1], extra=pack_groups(forgot))}
    for given in (missing, replace(champion, folds=saw)):
        quick = _unscheduled(epochs=1)
        request = _request(data, tiny, champion=given, version=2, settings=quick)
        assert not body_candidate(request, engine=tiny).chosen["continued"]
