"""Settings come from inner folds, fold models never see their fold, and time is kept."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from lora.head import bend
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, judge, mrr, unit
from lora.training.head import HeadConfig
from lora.training.sweep import SweepConfig, train_head
from tests.lora.training.synthetic import world

QUICK = SweepConfig(checkpoints=(10, 30), scales=(0.5, 1.0), grid=(HeadConfig(),))


def verdict_on(data: TrainingSet, vectors: np.ndarray, arena: Arena) -> bool:
    before = arena.ranks(data.query_vectors[arena.rows])
    return judge(before, arena.ranks(vectors), arena.groups).accepted


def test_a_real_gain_passes_the_gate_and_holds_on_new_queries() -> None:
    data, later = world(queries=200), world(queries=300, seed=1)
    arena = Arena(data)
    trained = train_head(data, arena, QUICK)
    assert verdict_on(data, trained.vectors, arena)
    assert trained.adapter is not None
    held = Arena(later)
    before = mrr(held.ranks(later.query_vectors))
    after = mrr(held.ranks(bend(later.query_vectors, [trained.adapter])))
    expected = mrr(arena.ranks(trained.vectors))
    assert after > before + 0.1
    assert after == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_mean_nothing_are_refused(seed: int) -> None:
    """Whatever a head memorises of shuffled labels, the folds it never saw do not show it."""
    data = world(queries=150, shuffled=True, seed=seed)
    arena = Arena(data)
    assert not verdict_on(data, train_head(data, arena, QUICK).vectors, arena)


def test_no_change_wins_where_nothing_is_to_be_gained() -> None:
    """A base model that is right already is left alone, or hardly touched."""
    data = world(queries=80, turned=False, noise=0.1)
    arena = Arena(data)
    trained = train_head(data, arena, QUICK)
    assert trained.choice.scale == 0.0
    assert trained.adapter is None
    np.testing.assert_allclose(trained.vectors, unit(data.query_vectors), atol=1e-6)
    assert not verdict_on(data, trained.vectors, arena)


def test_fold_models_know_nothing_of_their_fold() -> None:
    """Turning a fold's labels upside down changes every model but its own."""
    data = world(queries=120)
    labels = data.label_passage.copy()
    inside = data.folds[data.label_query] == 2
    labels[inside] = (labels[inside] + 5) % len(data.passages)
    changed = replace(data, label_passage=labels)
    one, two = (train_head(each, Arena(each), QUICK) for each in (data, changed))
    rows = Arena(data).folds == 2
    np.testing.assert_allclose(one.vectors[rows], two.vectors[rows], atol=1e-5)
    assert not np.allclose(one.vectors[~rows], two.vectors[~rows], atol=1e-3)


def test_the_vectors_judged_are_those_of_the_fold_models() -> None:
    """What the gate sees is what the cards kept beside the version would answer."""
    data = world(queries=100)
    arena = Arena(data)
    trained = train_head(data, arena, QUICK)
    for fold, adapter in trained.folds.items():
        rows = arena.folds == fold
        base = unit(data.query_vectors[arena.rows[rows]])
        bent = bend(base, [adapter] if adapter else [])
        np.testing.assert_allclose(trained.vectors[rows], bent, atol=1e-5)


def test_the_same_seed_gives_the_same_head() -> None:
    data = world(queries=60)
    one, two = (train_head(data, Arena(data), QUICK) for _ in range(2))
    assert one.adapter is not None
    assert two.adapter is not None
    assert np.array_equal(one.adapter.a, two.adapter.a)
    assert one.choice == two.choice


def test_time_is_kept() -> None:
    """With no time left, one setting is tried on a ring of pairs; with plenty, all of them."""
    data = world(queries=200)
    steps = []
    grid = tuple(HeadConfig(weight_decay=float(n)) for n in range(40))
    hurried = SweepConfig(grid=grid, checkpoints=(10,), time_budget_s=1e-3)
    started = time.monotonic()
    trained = train_head(data, Arena(data), hurried, progress=lambda *line: steps.append(line))
    assert time.monotonic() - started < 20
    assert trained.tried == 1
    # Five pairs, and then no more than five fold models and the final fit.
    assert 5 <= len(steps) <= 5 + 5 + 1
    assert all(np.isfinite(loss) for _, _, loss in steps)
    assert train_head(data, Arena(data), replace(QUICK, time_budget_s=60.0)).tried == 1


def test_a_head_can_stand_upon_other_vectors() -> None:
    """Vectors of a body in place of the base ones: what is bent is what was given."""
    data = world(queries=80)
    given = unit(data.query_vectors + 0.2)
    trained = train_head(data, Arena(data), QUICK, query_vectors=given)
    assert trained.adapter is not None
    fold = int(data.folds[0])
    adapter = trained.folds[fold]
    expected = bend(given[:1], [adapter] if adapter else [])
    np.testing.assert_allclose(trained.vectors[:1], expected, atol=1e-5)


def test_one_fold_is_too_little() -> None:
    data = world(queries=20)
    alone = replace(data, folds=np.zeros(20))
    with pytest.raises(NothingToLearn, match="fewer than two folds"):
        train_head(alone, Arena(alone), QUICK)


@pytest.mark.parametrize(
    "bad", [{"grid": ()}, {"scales": (0.0,)}, {"checkpoints": (0,)}, {"checkpoints": ()}]
)
def test_an_empty_sweep_is_refused(bad: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError):
        SweepConfig(**bad)  # type: ignore[arg-type]
