"""Bodies: what is trained, what stays as it was, and that no fold sees another's labels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lora.adapter import HEAD, Adapter
from lora.card import LoRACard
from lora.config import LoRAConfig
from lora.errors import NoMatchingModuleError
from lora.training.body import BodyConfig, BodySweep, body_candidate, train_body
from lora.training.body_fit import batches
from lora.training.body_trunk import Replica, Trunk
from lora.training.candidate import CandidateRequest
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
from lora.training.gate import Arena
from tests.lora.training.encoded import encoded, louder

QUICK = BodySweep(
    config=BodyConfig(layers=1, epochs=4, learning_rate=2e-2), threads=2, head_steps=10
)
ALWAYS_WHOLE = replace(QUICK, bodies=(1.0,), heads=(1.0,), alone=())


@pytest.fixture
def tiny(tiny):
    return louder(tiny)


@pytest.fixture
def data(tiny):
    return encoded(tiny)


def _card(engine, modules, **about) -> LoRACard:
    return LoRACard(
        name="x", base_model=engine.base_model, dim=engine.dim, modules=modules, **about
    )


def _same(left, right) -> bool:
    return set(left) == set(right) and all(
        np.array_equal(left[name].a, right[name].a) and np.array_equal(left[name].b, right[name].b)
        for name in left
    )


def test_upper_layers_go_on_from_the_kept_activations_as_the_whole_model_does(tiny, data):
    trunk = Trunk(tiny, data.queries, ("query", "value"), layers=1, threads=2)
    assert trunk.skipped == 1
    assert all(".1." in name for name in trunk.targets)
    (found,) = trunk.each(lambda replica, rows: replica.vectors(rows), [np.arange(60)])
    assert np.abs(found - data.query_vectors).max() < 1e-5


def test_activations_that_would_not_fit_are_not_kept_and_the_same_layers_are_adapted(tiny, data):
    kept = Trunk(tiny, data.queries, ("query",), layers=1)
    not_kept = Trunk(tiny, data.queries, ("query",), layers=1, max_bytes=10)
    assert (kept.skipped, not_kept.skipped) == (1, 0)
    assert kept.targets == not_kept.targets
    (found,) = not_kept.each(lambda replica, rows: replica.vectors(rows), [np.arange(9)])
    assert np.abs(found - data.query_vectors[:9]).max() < 1e-5


def test_a_layout_gives_each_module_its_own_rank_and_leaves_the_layers_below_frozen(tiny, data):
    query, dense = (
        next(name for name in Trunk(tiny, ["-"], (target,)).targets if ".1." in name)
        for target in ("query", "intermediate.dense")
    )
    config = replace(QUICK.config, ranks={query: 3, dense: 5})
    assert hash(config) != hash(replace(config, epochs=3))
    trained = train_body(data, Arena(data), tiny, replace(ALWAYS_WHOLE, config=config))
    made = next(m for m in (trained.modules, *trained.folds.values()) if set(m) - {HEAD})
    body = {name: adapter for name, adapter in made.items() if name != HEAD}
    assert {name: adapter.rank for name, adapter in body.items()} == {query: 3, dense: 5}
    assert len({adapter.scale for adapter in body.values()}) == 1
    assert Trunk(tiny, data.queries, config.adapted, layers=config.depth).skipped == 1
    with pytest.raises(ConfigError, match="rank of query should lie in 1"):
        BodyConfig(ranks={"query": 0})


def test_only_the_adapters_get_gradients_and_the_weights_are_shared_not_changed(tiny, data):
    before = {name: p.detach().clone() for name, p in tiny.module.named_parameters()}
    trunk = Trunk(tiny, data.queries, ("query", "value"), layers=1)
    replica = Replica(trunk)
    adapters = replica.attach(LoRAConfig(rank=2, target_modules=trunk.targets))
    replica.forward(np.arange(5)).square().sum().backward()
    with_gradient = {n for n, p in replica.module.named_parameters() if p.grad is not None}
    assert len(with_gradient) == len(adapters) == 4
    assert all(name.endswith(("lora_a", "lora_b")) for name in with_gradient)
    shared = {p.data_ptr() for p in tiny.module.parameters()}
    assert shared <= {p.data_ptr() for p in replica.module.parameters()}
    train_body(data, Arena(data), tiny, QUICK)
    assert all(torch.equal(p, before[name]) for name, p in tiny.module.named_parameters())
    assert not tiny.manager.list_cards()


def test_progress_counts_every_step_and_reaches_its_end(tiny, data):
    told = []
    trained = train_body(
        data, Arena(data), tiny, ALWAYS_WHOLE, progress=lambda *step: told.append(step)
    )
    steps = [step for step, _, _ in told]
    assert steps == [*range(1, len(steps)), len(steps) - 1]
    assert told[-1][0] == told[-1][1]
    assert trained.plan.epochs == 4


def test_the_same_seed_gives_the_same_bits_however_many_threads_work(tiny, data):
    arena = Arena(data)
    first = train_body(data, arena, tiny, QUICK)
    again = train_body(data, arena, tiny, replace(QUICK, threads=1))
    other = train_body(data, arena, tiny, replace(QUICK, seed=1))
    assert np.array_equal(first.vectors, again.vectors)
    assert _same(first.modules, again.modules)
    assert not _same(first.modules, other.modules)


def test_a_fold_model_knows_nothing_of_its_folds_labels(tiny):
    honest, shifted = encoded(tiny), encoded(tiny, wrong_fold=3)
    first = train_body(honest, Arena(honest), tiny, QUICK)
    second = train_body(shifted, Arena(shifted), tiny, QUICK)
    assert _same(first.folds[3], second.folds[3])
    assert first.choice.score != second.choice.score
    rows = Arena(honest).folds == 3
    assert np.array_equal(first.vectors[rows], second.vectors[rows])


def test_a_card_of_the_modules_gives_the_vectors_that_the_training_judged(tiny, data):
    arena = Arena(data)
    trained = train_body(data, arena, tiny, ALWAYS_WHOLE)
    assert trained.judged.all()
    fold = next(fold for fold, modules in trained.folds.items() if len(modules) > 1)
    assert HEAD in trained.folds[fold]
    rows = np.flatnonzero(arena.folds == fold)
    texts = [data.queries[arena.rows[row]] for row in rows]
    served = tiny.encode_rows(texts, [[_card(tiny, trained.folds[fold])]] * len(rows))
    expected = trained.vectors[rows]
    cosines = (served * expected).sum(1) / np.linalg.norm(served, axis=1)
    assert (cosines / np.linalg.norm(expected, axis=1)).min() > 0.99999


def test_a_budget_is_kept_by_planning_with_the_clock_that_is_given(tiny, data):
    ticks = itertools.count()
    slow = train_body(
        data,
        Arena(data),
        tiny,
        replace(QUICK, time_budget_s=5.0, threads=1),
        clock=lambda: float(next(ticks)),  # every look at it costs a second
    )
    assert slow.plan.epochs < QUICK.config.epochs
    free = train_body(data, Arena(data), tiny, replace(QUICK, time_budget_s=1e6))
    assert free.plan.epochs == QUICK.config.epochs
    assert len(free.plan.judged) == 5


def test_labels_that_mean_nothing_are_no_gain(tiny):
    data = encoded(tiny)
    labels = np.random.default_rng(0).permutation(data.label_passage)
    noise = replace(data, label_passage=labels)
    arena = Arena(noise)
    candidate = body_candidate(_request(noise, tiny), engine=tiny)
    assert not candidate.accepted
    assert candidate.metrics["groups"] == len(np.unique(arena.groups))


def _request(data, engine, **about) -> CandidateRequest:
    return CandidateRequest(
        data=data,
        skill="clues",
        version=1,
        data_digest="sha256:" + "0" * 64,
        time_budget_s=600.0,
        **{
            "base_model": engine.base_model,
            "settings": {"layers": 1, "epochs": 4, "learning_rate": 2e-2, "head_steps": 10},
        }
        | about,
    )


def test_a_candidate_is_judged_on_its_fold_models_and_carries_them(tiny, data):
    candidate = body_candidate(_request(data, tiny), engine=tiny, threads=2)
    assert set(candidate.folds) == {0, 1, 2, 3, 4}
    assert candidate.chosen["folds_judged"] == 5
    assert candidate.chosen["epochs"] == 4
    assert candidate.metrics["after"] >= candidate.metrics["before"] - 0.1
    if candidate.card is not None:
        assert candidate.card.metrics == candidate.metrics


def test_ranks_that_are_given_are_the_ones_that_are_used(tiny, data):
    settings = {"epochs": 4, "learning_rate": 2e-2, "head_steps": 10, "alone": [], "heads": [1.0]}
    request = _request(data, tiny, settings=settings | {"ranks": {"key": 3}, "bodies": [1.0]})
    found = body_candidate(request, engine=tiny)
    bodies = [card.body for card in (found.card, *found.folds.values()) if card and card.body]
    assert bodies
    for body in bodies:
        assert all(name.endswith(".key") for name in body)
        assert {adapter.rank for adapter in body.values()} == {3}
    unknown = replace(request, settings={"ranks": {"colour": 3}})
    with pytest.raises(NoMatchingModuleError, match="colour"):
        body_candidate(unknown, engine=tiny)


def test_what_cannot_be_trained_is_refused_with_a_reason(tiny, data):
    with pytest.raises(ConfigError, match="unknown settings of a body: colour"):
        body_candidate(_request(data, tiny, settings={"colour": 1}), engine=tiny)
    with pytest.raises(ConfigError, match="head_start"):
        BodyConfig(head_start=2.0)
    turned = replace(data, query_vectors=data.query_vectors[::-1])
    arena = Arena(turned)
    with pytest.raises(TrainingError, match="do not come from this model"):
        train_body(turned, arena, tiny, QUICK)
    other = replace(_request(data, tiny).base_model, sha256="1" * 64)
    with pytest.raises(TrainingError, match="the model here is"):
        body_candidate(_request(data, tiny, base_model=other), engine=tiny)
    alone = replace(data, folds=np.zeros(len(data.queries), np.int8))
    arena = Arena(alone)
    with pytest.raises(NothingToLearn, match="fewer than two folds"):
        train_body(alone, arena, tiny, QUICK)


def test_a_model_that_serves_cards_is_trained_as_if_it_held_none(tiny, data):
    trainer = train_body(data, Arena(data), tiny, ALWAYS_WHOLE)
    adapters = Replica(Trunk(tiny, ["-"], ("query",), layers=1)).attach(
        LoRAConfig(target_modules=("query",))
    )
    body = {
        name.removesuffix(".lora_a"): Adapter(np.ones((32, 1), "f4"), np.ones((1, 32), "f4"), 1, 1)
        for name in adapters
        if name.endswith(".lora_a")
    }
    tiny.encode_rows(["now"], [[_card(tiny, body)]])
    again = train_body(data, Arena(data), tiny, ALWAYS_WHOLE)
    assert np.array_equal(trainer.vectors, again.vectors)


def test_the_loss_falls(tiny, data):
    from lora.training.body_fit import Objective, Optimizer, fit
    from lora.training.head import HeadProblem

    trunk = Trunk(tiny, data.queries, ("query", "value"), layers=1)
    replica = Replica(trunk)
    body = replica.attach(LoRAConfig(target_modules=trunk.targets))
    config = BodyConfig(learning_rate=2e-2)
    problem = HeadProblem(data)
    optimizer = Optimizer(body, {}, config, 40)
    losses = [
        fit(
            lambda rows: replica.forward(problem.rows[rows]),
            optimizer,
            Objective(problem, 0.05),
            np.arange(60),
            trunk.lengths,
            config,
            seed=0,
            epoch=epoch,
        )
        for epoch in range(8)
    ]
    assert losses[-1] < losses[0]


def test_batches_hold_every_query_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(3, 60, 100)
    made = batches(lengths, 16, seed=1, epoch=0)
    assert sorted(np.concatenate(made).tolist()) == list(range(100))
    assert max(np.ptp(lengths[rows]) for rows in made) < 30
    assert [rows.tolist() for rows in made] == [r.tolist() for r in batches(lengths, 16, 1, 0)]
    assert [rows.tolist() for rows in made] != [r.tolist() for r in batches(lengths, 16, 1, 1)]


@pytest.mark.timeout(240)
def test_the_default_model_learns_clues_that_its_base_does_not_know(engine):
    data = encoded(engine, per_passage=6)
    sweep = replace(ALWAYS_WHOLE, config=BodyConfig(epochs=3))
    arena = Arena(data)
    trained = train_body(data, arena, engine, sweep)
    card = _card(engine, trained.modules)
    assert {name.split(".")[-1] for name in card.body} == {"query", "value"}
    assert len(card.body) == 4
    served = engine.encode_rows(data.queries, [[card]] * len(data.queries))
    before, after = (arena.ranks(v[arena.rows]) for v in (data.query_vectors, served))
    assert (1 / after).mean() > (1 / before).mean()
